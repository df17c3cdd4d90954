/* libcuda.so.1: virtual memory, which torch's expandable segments are made of, and the context that is always current. */
#include "device.h"

#include <stddef.h>

#define SUCCESS 0
#define OUT_OF_MEMORY 2
#define FABRIC_HANDLES 128
#define PAGE 2097152

static char context[64];

int cuInit(unsigned int flags) { return (void)flags, SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = (int)device_number("STAND_IN_GPU_CUDA", 13000), SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, SUCCESS; }
int cuCtxGetCurrent(void **current) { return *current = device_has_begun() ? context : NULL, SUCCESS; }
int cuCtxSetCurrent(void *current) { return (void)current, SUCCESS; }

int cuDevicePrimaryCtxGetState(int device, unsigned int *flags, int *active) {
    (void)device;
    *flags = 0;
    *active = device_has_begun();
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **made, int device) {
    (void)device;
    *made = context;
    return device_begin() ? SUCCESS : OUT_OF_MEMORY;
}

/* virtual memory is there, handles that are shared over a fabric are not */
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute != FABRIC_HANDLES;
    return SUCCESS;
}

int cuMemAddressReserve(uint64_t *address, size_t bytes, size_t alignment, uint64_t wanted, unsigned long long flags) {
    (void)alignment, (void)wanted, (void)flags;
    *address = device_addresses(bytes);
    return SUCCESS;
}

/* a handle is the number of its bytes */
int cuMemCreate(unsigned long long *handle, size_t bytes, const void *properties, unsigned long long flags) {
    (void)properties, (void)flags;
    *handle = bytes;
    return device_take(bytes) ? SUCCESS : OUT_OF_MEMORY;
}

int cuMemRelease(unsigned long long handle) { return device_give_back(handle), SUCCESS; }

int cuMemGetAllocationGranularity(size_t *bytes, const void *properties, int option) {
    (void)properties, (void)option;
    *bytes = PAGE;
    return SUCCESS;
}

int cuGetErrorString(int code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "out of memory" : "an error of the stand-in";
    return SUCCESS;
}

#define DOES_NOTHING(name) int name(void) { return SUCCESS; }
DOES_NOTHING(cuMemAddressFree)
DOES_NOTHING(cuMemMap)
DOES_NOTHING(cuMemUnmap)
DOES_NOTHING(cuMemSetAccess)
DOES_NOTHING(cuMemsetD32Async)
DOES_NOTHING(cuLaunchKernel)
DOES_NOTHING(cuLaunchCooperativeKernel)
