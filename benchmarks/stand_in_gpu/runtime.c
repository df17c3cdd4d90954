/* libcudart.so.13: memory, and what a program asks of the device. Kernels are in launches.c. Structures and numbers as in
 * NVIDIA's driver_types.h of CUDA 13. */
#define _GNU_SOURCE
#include "device.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUCCESS 0
#define INVALID_VALUE 1
#define OUT_OF_MEMORY 2
#define NO_DEVICE 100
#define INVALID_DEVICE 101
#define NOT_SUPPORTED 801
#define GRANULE 2097152ull /* the device gives memory in pages of 2 MiB */
#define MOST 200000
#define KIND_OF_DEVICE 2

static struct { uint64_t address, bytes; } given[MOST];
static size_t given_count;
static pthread_mutex_t one_thread = PTHREAD_MUTEX_INITIALIZER;

/* memory */

int cudaMalloc(void **address, size_t bytes) {
    uint64_t pages = (bytes + GRANULE - 1) / GRANULE * GRANULE;
    int code = OUT_OF_MEMORY;
    pthread_mutex_lock(&one_thread);
    if (given_count < MOST && device_take(pages)) {
        given[given_count].address = device_addresses(pages);
        given[given_count].bytes = pages;
        *address = (void *)given[given_count++].address;
        code = SUCCESS;
    }
    pthread_mutex_unlock(&one_thread);
    return code;
}

int cudaFree(void *address) {
    int code = address ? INVALID_VALUE : SUCCESS;
    pthread_mutex_lock(&one_thread);
    for (size_t place = 0; place < given_count; place++) {
        if (given[place].address != (uint64_t)address) continue;
        device_give_back(given[place].bytes);
        given[place] = given[--given_count];
        code = SUCCESS;
        break;
    }
    pthread_mutex_unlock(&one_thread);
    return code;
}

int cudaMemGetInfo(size_t *left, size_t *total) {
    if (!device_begin()) return OUT_OF_MEMORY;
    *total = device_total() - device_driver();
    *left = *total - device_used();
    return SUCCESS;
}

/* What lies on the device reads as zeros, and what is written there is gone. */
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    (void)kind, (void)stream;
    if (!device_begin()) return OUT_OF_MEMORY;
    if (device_has_address(to)) return SUCCESS;
    if (device_has_address(from)) memset(to, 0, bytes);
    else memmove(to, from, bytes);
    return SUCCESS;
}

int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) { return cudaMemcpyAsync(to, from, bytes, kind, NULL); }

int cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, int kind,
                      void *stream) {
    for (size_t row = 0; row < height; row++)
        cudaMemcpyAsync((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width, kind, stream);
    return SUCCESS;
}

int cudaHostAlloc(void **address, size_t bytes, unsigned int flags) {
    (void)flags;
    return posix_memalign(address, 4096, bytes ? bytes : 1) ? OUT_OF_MEMORY : SUCCESS;
}

int cudaFreeHost(void *address) { return free(address), SUCCESS; }

typedef struct { int type, device; void *device_address, *host_address; long reserved[8]; } pointer_attributes;

int cudaPointerGetAttributes(pointer_attributes *found, const void *address) {
    memset(found, 0, sizeof *found);
    if (device_has_address(address)) {
        found->type = KIND_OF_DEVICE;
        found->device_address = (void *)address;
    } else {
        found->host_address = (void *)address;
    }
    return SUCCESS;
}

/* the device */

int cudaGetDeviceCount(int *count) {
    *count = device_is_visible();
    return *count ? SUCCESS : NO_DEVICE;
}

int cudaGetDevice(int *device) { return *device = 0, device_is_visible() ? SUCCESS : NO_DEVICE; }

int cudaSetDevice(int device) {
    if (device || !device_is_visible()) return INVALID_DEVICE;
    return device_begin() ? SUCCESS : OUT_OF_MEMORY;
}

int cudaRuntimeGetVersion(int *version) { return *version = (int)device_number("STAND_IN_GPU_CUDA", 13000), SUCCESS; }
int cudaDriverGetVersion(int *version) { return cudaRuntimeGetVersion(version); }

const char *cudaGetErrorString(int code) {
    switch (code) {
        case OUT_OF_MEMORY: return "out of memory";
        case NO_DEVICE: return "no CUDA-capable device is detected";
        case NOT_SUPPORTED: return "the stand-in GPU does not have this";
        default: return "an error of the stand-in GPU";
    }
}

const char *cudaGetErrorName(int code) { return cudaGetErrorString(code); }

int cudaDeviceGetPCIBusId(char *id, int length, int device) {
    (void)device;
    snprintf(id, (size_t)length, "0000:01:00.0");
    return SUCCESS;
}

typedef struct {
    char name[256], uuid[16], luid[8];
    unsigned int luid_mask;
    size_t total_memory, shared_per_block;
    int registers_per_block, warp;
    size_t pitch;
    int threads_per_block, block[3], grid[3];
    size_t constants;
    int major, minor;
    size_t texture_alignment, texture_pitch;
    int processors, integrated, maps_host;
    int textures[25], surfaces[13]; /* 1D, 2D, 3D, cubes, layers */
    size_t surface_alignment;
    int concurrent_kernels, ecc, pci[3], tcc, engines, unified_addressing, bus_width, l2_cache, persisting_l2;
    int threads_per_processor, priorities, global_l1, local_l1;
    size_t shared_per_processor;
    int registers_per_processor, managed, is_multi, multi_group, host_atomics, pageable, concurrent_managed, preemption;
    int host_pointers, cooperative;
    size_t shared_opt_in;
    int host_page_tables, direct_host, blocks_per_processor, window;
    size_t shared_reserved;
    int rest[20 + 56];
} properties;

#ifdef CUDA_HEADERS /* with NVIDIA's own at hand: is this how they lie? */
#include <driver_types.h>
#define SAME(mine, theirs) \
    _Static_assert(offsetof(properties, mine) == offsetof(struct cudaDeviceProp, theirs), #mine " lies elsewhere")
SAME(total_memory, totalGlobalMem);
SAME(major, major);
SAME(processors, multiProcessorCount);
SAME(textures, maxTexture1D);
SAME(surfaces, maxSurface1D);
SAME(surface_alignment, surfaceAlignment);
SAME(l2_cache, l2CacheSize);
SAME(shared_per_processor, sharedMemPerMultiprocessor);
SAME(cooperative, cooperativeLaunch);
SAME(shared_opt_in, sharedMemPerBlockOptin);
SAME(blocks_per_processor, maxBlocksPerMultiProcessor);
SAME(shared_reserved, reservedSharedMemPerBlock);
_Static_assert(sizeof(properties) == sizeof(struct cudaDeviceProp), "another size");
_Static_assert(sizeof(pointer_attributes) == sizeof(struct cudaPointerAttributes), "another size");
#endif

int cudaGetDeviceProperties(properties *found, int device) {
    if (device || !device_is_visible()) return INVALID_DEVICE;
    memset(found, 0, sizeof *found);
    snprintf(found->name, sizeof found->name, "%s", device_name());
    found->total_memory = device_total() - device_driver();
    found->shared_per_block = 49152;
    found->registers_per_block = found->registers_per_processor = 65536;
    found->warp = 32;
    found->pitch = 2147483647;
    found->threads_per_block = found->block[0] = found->block[1] = 1024;
    found->block[2] = 64;
    found->grid[0] = 2147483647;
    found->grid[1] = found->grid[2] = 65535;
    found->constants = 65536;
    found->major = device_major();
    found->minor = device_minor();
    found->texture_alignment = 512;
    found->processors = device_processors();
    found->maps_host = found->concurrent_kernels = found->unified_addressing = found->managed = found->cooperative = 1;
    found->engines = 2;
    found->bus_width = 256;
    found->l2_cache = 32 * 1048576;
    found->threads_per_processor = device_threads();
    found->shared_per_processor = 102400;
    found->shared_opt_in = 101376;
    found->shared_reserved = 1024;
    found->blocks_per_processor = 24;
    return SUCCESS;
}

/* enum cudaDeviceAttr: what torch, cub and thrust ask for; all else is 0 */
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    static const struct { int attribute, value; } known[] = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, /* threads of a block, and in each of its dimensions */
        {5, 2147483647}, {6, 65535}, {7, 65535},  /* blocks of a grid in each dimension */
        {8, 49152}, {97, 101376}, {81, 102400}, {111, 1024}, /* shared memory: block, opted in, processor, kept back */
        {10, 32}, {12, 65536}, {82, 65536},       /* warp, registers of a block and of a processor */
        {13, 1800000}, {38, 32 * 1048576}, {106, 24}, /* clock, L2 cache, blocks of a processor */
        {99, 1}, {41, 1}, {95, 1}, {115, 1}, {91, 1}, /* host memory, one address space, cooperative launches, pools */
    };
    (void)device;
    *value = 0;
    for (size_t place = 0; place < sizeof known / sizeof *known; place++)
        if (known[place].attribute == attribute) *value = known[place].value;
    if (attribute == 16) *value = device_processors();
    if (attribute == 39) *value = device_threads();
    if (attribute == 75) *value = device_major();
    if (attribute == 76) *value = device_minor();
    return SUCCESS;
}

/* the driver's functions, which torch looks up by name */

static int not_there(void) { return NOT_SUPPORTED; }

int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned int version, unsigned long long flags,
                                     int *answer) {
    (void)version, (void)flags;
    static void *driver;
    if (!driver) driver = dlopen("libcuda.so.1", RTLD_NOW);
    void *found = driver ? dlsym(driver, name) : NULL;
    *function = found ? found : (void *)not_there;
    if (answer) *answer = 0;
    return SUCCESS;
}
