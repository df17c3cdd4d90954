/* libnvidia-ml.so.1: one GPU, its memory, and the processes that hold some of it. Structures as in NVIDIA's nvml.h. The
 * library of tests/autotune/memory/nvml_stand_in.c is another: there a test says what is held, here torch holds it. */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUCCESS 0
#define ERROR_INVALID_ARGUMENT 2
#define ERROR_NOT_SUPPORTED 3
#define ERROR_NOT_FOUND 6
#define ERROR_INSUFFICIENT_SIZE 7
#define ERROR_DRIVER_NOT_LOADED 9
#define ERROR_ARGUMENT_VERSION_MISMATCH 25
#define MOST 255
#define UUID "GPU-57a4d142-0000-0000-0000-000000000001"

typedef unsigned long long bytes_t;
typedef struct { unsigned int pid; bytes_t used; unsigned int gpu_instance, compute_instance; } process_info;
typedef struct { unsigned int pid; bytes_t used; } first_process_info;
typedef struct { bytes_t total, free, used; } memory_v1;
typedef struct { unsigned int version; bytes_t total, reserved, free, used; } memory_v2;

static char the_gpu[1];

int nvmlInitWithFlags(unsigned int flags) { return (void)flags, device_is_there() ? SUCCESS : ERROR_DRIVER_NOT_LOADED; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == ERROR_DRIVER_NOT_LOADED ? "Driver Not Loaded" : "an error of the stand-in"; }

static int text(char *target, unsigned int length, const char *said) {
    if (strlen(said) + 1 > length) return ERROR_INSUFFICIENT_SIZE;
    strcpy(target, said);
    return SUCCESS;
}

/* Its first word tells a stand-in's driver from a real one, so that nothing measured here is taken for a real GPU's. */
int nvmlSystemGetDriverVersion(char *version, unsigned int length) { return text(version, length, "stand-in.1"); }
int nvmlSystemGetCudaDriverVersion(int *version) { return *version = (int)device_number("STAND_IN_GPU_CUDA", 13000), SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }
int nvmlDeviceGetCount_v2(unsigned int *count) { return *count = 1, SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    *handle = the_gpu;
    return index == 0 ? SUCCESS : ERROR_INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    *handle = the_gpu;
    return strcmp(uuid, UUID) == 0 ? SUCCESS : ERROR_NOT_FOUND;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **handle) { return (void)id, *handle = the_gpu, SUCCESS; }
int nvmlDeviceGetIndex(void *device, unsigned int *index) { return (void)device, *index = 0, SUCCESS; }
int nvmlDeviceGetName(void *device, char *name, unsigned int length) { return (void)device, text(name, length, device_name()); }
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int length) { return (void)device, text(uuid, length, UUID); }

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    (void)device;
    *major = device_major();
    *minor = device_minor();
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, memory_v1 *memory) {
    (void)device;
    memory->total = device_total();
    memory->used = device_used() + device_driver(); /* version 1 counts what the driver keeps as used */
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2 *memory) {
    (void)device;
    if (memory->version != (sizeof *memory | (2u << 24))) return ERROR_ARGUMENT_VERSION_MISMATCH;
    memory->total = device_total();
    memory->reserved = device_driver();
    memory->used = device_used();
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, process_info *found) {
    (void)device;
    holder holders[MOST];
    unsigned int room = *count, there = device_holders(holders, MOST);
    *count = there;
    if (there > room || (there && !found)) return ERROR_INSUFFICIENT_SIZE;
    memset(found, 0, there * sizeof *found);
    for (unsigned int place = 0; place < there; place++) {
        found[place].pid = holders[place].pid;
        found[place].used = holders[place].bytes;
    }
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned int *count, process_info *found) {
    return nvmlDeviceGetComputeRunningProcesses_v3(device, count, found);
}

/* in the first form, which torch asks for when memory is out, to tell who else holds some */
int nvmlDeviceGetComputeRunningProcesses(void *device, unsigned int *count, first_process_info *found) {
    (void)device;
    holder holders[MOST];
    unsigned int room = *count, there = device_holders(holders, MOST);
    *count = there;
    for (unsigned int place = 0; place < there && place < room; place++)
        found[place] = (first_process_info){holders[place].pid, holders[place].bytes};
    return there > room ? ERROR_INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned int *count, void *found) {
    return (void)device, (void)found, *count = 0, SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(void *device, unsigned int *count, void *found) {
    return nvmlDeviceGetGraphicsRunningProcesses_v3(device, count, found);
}

int nvmlDeviceGetMigMode(void *device, unsigned int *current, unsigned int *pending) {
    return (void)device, (void)current, (void)pending, ERROR_NOT_SUPPORTED;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned int *count) { return (void)device, *count = 0, SUCCESS; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned int index, void **slice) {
    return (void)device, (void)index, (void)slice, ERROR_NOT_FOUND;
}
int nvmlDeviceGetNvLinkRemoteDeviceType(void) { return ERROR_NOT_SUPPORTED; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void) { return ERROR_NOT_SUPPORTED; }

/* no fabric between GPUs: the state, behind a version and a cluster's UUID, stays 0 (not supported) */
int nvmlDeviceGetGpuFabricInfoV(void *device, void *info) { return (void)device, (void)info, SUCCESS; }
