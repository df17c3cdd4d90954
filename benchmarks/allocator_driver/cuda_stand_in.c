/* A stand-in for libcudart.so: one device that has memory and nothing else.
 *
 * torch's caching allocator (libc10_cuda.so) asks the CUDA runtime, and for expandable segments the driver, for memory; it
 * never looks at what lies there. So addresses are enough: this file hands them out and counts what is held. Kernels,
 * copies and graphs do not exist here.
 *
 * From the environment: STAND_IN_BYTES, what the device has; STAND_IN_ORDER, how the addresses of segments follow each
 * other: "rising" (the default), "falling", or "mixed" (rising and falling in turn).
 */
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 1000000
static const uint64_t GRANULE = 2097152; /* what cudaMalloc and cuMemCreate round to */

static struct {
    uint64_t address, bytes;
} given[MOST];
static size_t num_given;
static uint64_t held, above = 1ull << 45, below = 1ull << 45, turn;

static uint64_t total(void) {
    const char *said = getenv("STAND_IN_BYTES");
    return said ? strtoull(said, NULL, 10) : 80000000000ull;
}

static uint64_t rounded(uint64_t bytes) { return (bytes + GRANULE - 1) / GRANULE * GRANULE; }

static uint64_t place(uint64_t bytes) {
    const char *order = getenv("STAND_IN_ORDER");
    int falls = order && (!strcmp(order, "falling") || (!strcmp(order, "mixed") && turn++ % 2));
    if (falls) return below -= rounded(bytes);
    above += rounded(bytes);
    return above - rounded(bytes);
}

cudaError_t cudaMalloc(void **address, size_t bytes) {
    if (held + rounded(bytes) > total() || num_given == MOST) return cudaErrorMemoryAllocation;
    held += rounded(bytes);
    given[num_given].address = place(bytes);
    given[num_given].bytes = rounded(bytes);
    *address = (void *)given[num_given++].address;
    return cudaSuccess;
}

cudaError_t cudaFree(void *address) {
    if (!address) return cudaSuccess;
    for (size_t i = 0; i < num_given; i++)
        if (given[i].address == (uint64_t)address) {
            held -= given[i].bytes;
            given[i] = given[--num_given];
            return cudaSuccess;
        }
    fprintf(stderr, "stand-in: cudaFree of an address that was never given\n");
    abort();
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *all) {
    *left = total() - held;
    *all = total();
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device ? cudaErrorInvalidDevice : cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t error) { return error == cudaErrorMemoryAllocation ? "out of memory" : "an error"; }
const char *cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }
cudaError_t cudaDeviceSynchronize(void) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return (void)stream, cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0, cudaSuccess; }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    (void)device;
    memset(properties, 0, sizeof *properties);
    strcpy(properties->name, "stand-in");
    properties->totalGlobalMem = total();
    properties->major = 9;
    properties->multiProcessorCount = 1;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    (void)stream;
    return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) { return (void)mode, cudaSuccess; }

/* What the driver does for expandable segments: address space is reserved, handles of memory are mapped into it. */
static CUresult device_get(CUdevice *device, int ordinal) { return *device = ordinal, CUDA_SUCCESS; }

static CUresult device_attribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    (void)device;
    *value = attribute != CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED;
    return CUDA_SUCCESS;
}

static CUresult reserve(CUdeviceptr *address, size_t bytes, size_t alignment, CUdeviceptr wanted, unsigned long long flags) {
    (void)alignment, (void)wanted, (void)flags;
    *address = place(bytes);
    return CUDA_SUCCESS;
}

static CUresult create(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *prop, unsigned long long flags) {
    (void)prop, (void)flags;
    if (held + bytes > total()) return CUDA_ERROR_OUT_OF_MEMORY;
    held += bytes;
    *handle = bytes; /* a handle is its size */
    return CUDA_SUCCESS;
}

static CUresult release(CUmemGenericAllocationHandle handle) { return held -= handle, CUDA_SUCCESS; }

static CUresult granularity(size_t *bytes, const CUmemAllocationProp *prop, CUmemAllocationGranularity_flags option) {
    (void)prop, (void)option;
    return *bytes = GRANULE, CUDA_SUCCESS;
}

static CUresult error_string(CUresult error, const char **text) {
    *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "an error of the stand-in";
    return CUDA_SUCCESS;
}

static CUresult nothing(void) { return CUDA_SUCCESS; }
static CUresult unknown(void) { return CUDA_ERROR_NOT_SUPPORTED; }

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned int version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
    static const struct {
        const char *name;
        void *function;
    } known[] = {
        {"cuDeviceGet", (void *)device_get},
        {"cuDeviceGetAttribute", (void *)device_attribute},
        {"cuMemAddressReserve", (void *)reserve},
        {"cuMemAddressFree", (void *)nothing},
        {"cuMemCreate", (void *)create},
        {"cuMemRelease", (void *)release},
        {"cuMemMap", (void *)nothing},
        {"cuMemUnmap", (void *)nothing},
        {"cuMemSetAccess", (void *)nothing},
        {"cuMemGetAllocationGranularity", (void *)granularity},
        {"cuGetErrorString", (void *)error_string},
    };
    (void)version, (void)flags;
    *function = (void *)unknown;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) *function = known[i].function;
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}

