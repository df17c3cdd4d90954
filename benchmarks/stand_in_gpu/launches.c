/* libcudart.so.13: kernels, streams, events. A kernel is launched and nothing happens; every stream is always done. */
#include "device.h"

#include <stddef.h>
#include <string.h>

#define SUCCESS 0
#define OUT_OF_MEMORY 2

typedef struct { unsigned int x, y, z; } extent;
typedef struct {
    size_t shared, constants, local;
    int threads, registers, ptx, binary, cache_mode, dynamic_shared, carveout, cluster[4], scheduling;
    int others[17];
} function_attributes;

#ifdef CUDA_HEADERS
#include <driver_types.h>
_Static_assert(sizeof(function_attributes) == sizeof(struct cudaFuncAttributes), "another size");
_Static_assert(offsetof(function_attributes, ptx) == offsetof(struct cudaFuncAttributes, ptxVersion), "another place");
#endif

/* cub picks its settings by the generation that its kernel was compiled for, which need not be the device's own */
int cudaFuncGetAttributes(function_attributes *found, const void *kernel) {
    (void)kernel;
    memset(found, 0, sizeof *found);
    found->threads = 1024;
    found->registers = 32;
    found->ptx = found->binary = device_code();
    found->dynamic_shared = 49152;
    return SUCCESS;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel, int threads, size_t shared,
                                                           unsigned int flags) {
    (void)kernel, (void)shared, (void)flags;
    int most = threads > 0 ? device_threads() / threads : 1;
    *blocks = most < 1 ? 1 : most > 24 ? 24 : most;
    return SUCCESS;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads, size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, kernel, threads, shared, 0);
}

static char module[64], symbols[65536];

void **__cudaRegisterFatBinary(void *binary) { return (void)binary, (void **)module; }
char __cudaInitModule(void **handle) { return (void)handle, 1; }
int __cudaGetKernel(void **kernel, const void *function) { return *kernel = (void *)function, SUCCESS; }
int cudaGetSymbolAddress(void **address, const void *symbol) { return (void)symbol, *address = symbols, SUCCESS; }

unsigned int __cudaPushCallConfiguration(extent grid, extent block, size_t shared, void *stream) {
    (void)grid, (void)block, (void)shared, (void)stream;
    return 0;
}

int __cudaPopCallConfiguration(extent *grid, extent *block, size_t *shared, void *stream) {
    memset(grid, 0, sizeof *grid);
    memset(block, 0, sizeof *block);
    *shared = 0;
    *(void **)stream = NULL;
    return SUCCESS;
}

/* streams and events: numbers */

static uint64_t last_number = 4096;

static int number(void **made) {
    *made = (void *)__atomic_add_fetch(&last_number, 64, __ATOMIC_RELAXED);
    return device_begin() ? SUCCESS : OUT_OF_MEMORY;
}

int cudaStreamCreate(void **stream) { return number(stream); }
int cudaStreamCreateWithFlags(void **stream, unsigned int flags) { return (void)flags, number(stream); }
int cudaStreamCreateWithPriority(void **stream, unsigned int flags, int priority) {
    return (void)flags, (void)priority, number(stream);
}
int cudaEventCreate(void **event) { return number(event); }
int cudaEventCreateWithFlags(void **event, unsigned int flags) { return (void)flags, number(event); }
int cudaEventElapsedTime(float *milliseconds, void *from, void *to) {
    return (void)from, (void)to, *milliseconds = 1.0f, SUCCESS;
}
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, SUCCESS; }
int cudaStreamGetPriority(void *stream, int *priority) { return (void)stream, *priority = 0, SUCCESS; }
int cudaStreamIsCapturing(void *stream, int *status) { return (void)stream, *status = 0, SUCCESS; }

int cudaStreamGetCaptureInfo(void *stream, int *status, unsigned long long *id, void **graph, const void ***nodes,
                             const void **edges, size_t *count) {
    (void)stream;
    *status = 0;
    if (id) *id = 0;
    if (graph) *graph = NULL;
    if (nodes) *nodes = NULL;
    if (edges) *edges = NULL;
    if (count) *count = 0;
    return SUCCESS;
}

int cudaDeviceCanAccessPeer(int *can, int device, int peer) { return (void)device, (void)peer, *can = 0, SUCCESS; }
int cudaThreadExchangeStreamCaptureMode(int *mode) { return (void)mode, SUCCESS; }

#define DOES_NOTHING(name) int name(void) { return SUCCESS; }
DOES_NOTHING(__cudaLaunchKernel)
DOES_NOTHING(__cudaRegisterFatBinaryEnd)
DOES_NOTHING(__cudaRegisterFunction)
DOES_NOTHING(__cudaRegisterVar)
DOES_NOTHING(__cudaUnregisterFatBinary)
DOES_NOTHING(cudaDeviceSynchronize)
DOES_NOTHING(cudaEventDestroy)
DOES_NOTHING(cudaEventQuery)
DOES_NOTHING(cudaEventRecord)
DOES_NOTHING(cudaEventRecordWithFlags)
DOES_NOTHING(cudaEventSynchronize)
DOES_NOTHING(cudaFuncSetAttribute)
DOES_NOTHING(cudaGetLastError)
DOES_NOTHING(cudaHostRegister)
DOES_NOTHING(cudaHostUnregister)
DOES_NOTHING(cudaKernelSetAttributeForDevice)
DOES_NOTHING(cudaLaunchCooperativeKernel)
DOES_NOTHING(cudaLaunchHostFunc)
DOES_NOTHING(cudaLaunchKernel)
DOES_NOTHING(cudaLaunchKernelExC)
DOES_NOTHING(cudaMemcpyToSymbol)
DOES_NOTHING(cudaMemset)
DOES_NOTHING(cudaMemsetAsync)
DOES_NOTHING(cudaPeekAtLastError)
DOES_NOTHING(cudaProfilerStart)
DOES_NOTHING(cudaProfilerStop)
DOES_NOTHING(cudaStreamDestroy)
DOES_NOTHING(cudaStreamQuery)
DOES_NOTHING(cudaStreamSynchronize)
DOES_NOTHING(cudaStreamWaitEvent)
