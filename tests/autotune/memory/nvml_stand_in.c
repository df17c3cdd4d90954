/* A stand-in for libnvidia-ml.so.1, which the real Python binding loads: GPUs, slices, processes and faults as a test
 * sets them. Nothing is kept between calls: each call reads the file that NVML_STAND_IN_STATE names, so that a test may
 * change the state while another thread or process watches. Without the file there is no driver.
 *
 * The file: one entry a line, fields parted by tabs.
 *     driver   VERSION
 *     gpu      UUID  NAME  TOTAL  USED  RESERVED  MIG_MODE
 *     slice    UUID  NAME  TOTAL  USED  RESERVED  PARENT_UUID
 *     process  UUID  compute|graphics  PID  BYTES|none
 *     fail     GROUP  CODE        GROUP: init, driver, device, memory, memory_v2, processes, mig, all (but init)
 *     delay    GROUP  MILLISECONDS
 *
 * Structures as in NVIDIA's nvml.h; with OLD_DRIVER what came with driver 510 is missing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUCCESS 0
#define ERROR_INVALID_ARGUMENT 2
#define ERROR_NOT_SUPPORTED 3
#define ERROR_NOT_FOUND 6
#define ERROR_INSUFFICIENT_SIZE 7
#define ERROR_DRIVER_NOT_LOADED 9
#define ERROR_GPU_IS_LOST 15
#define ERROR_ARGUMENT_VERSION_MISMATCH 25
#define NOT_AVAILABLE 0xFFFFFFFFFFFFFFFFULL
#define MOST 64
#define TEXT 128

typedef unsigned long long bytes_t;
typedef struct { unsigned int pid; bytes_t used; unsigned int gpu_instance, compute_instance; } process_info;
typedef struct { bytes_t total, free, used; } memory_v1;
typedef struct { unsigned int version; bytes_t total, reserved, free, used; } memory_v2;

typedef struct { char uuid[TEXT], name[TEXT], parent[TEXT]; bytes_t total, used, reserved; int mig; } device_entry;
typedef struct { char uuid[TEXT], kind[TEXT]; unsigned int pid; bytes_t used; } process_entry;
typedef struct { char group[TEXT]; int code; } fault_entry;
typedef struct {
    char driver[TEXT];
    device_entry devices[MOST];
    process_entry processes[MOST];
    fault_entry faults[MOST], delays[MOST];
    int devices_count, processes_count, faults_count, delays_count;
} state_t;

/* A handle is the address of a UUID in this table, so that it outlives what it names. */
static char known[MOST][TEXT];
static int known_count = 0;

static void *handle_of(const char *uuid) {
    for (int place = 0; place < known_count; place++)
        if (strcmp(known[place], uuid) == 0) return known[place];
    if (known_count == MOST) return NULL;
    snprintf(known[known_count], TEXT, "%s", uuid);
    return known[known_count++];
}

static void copy(char *target, const char *text) { snprintf(target, TEXT, "%s", text ? text : ""); }

static bytes_t number(const char *text) { return text ? strtoull(text, NULL, 10) : 0; }

static void take(state_t *state, char *line) {
    char *field[8] = {0};
    int count = 0;
    line[strcspn(line, "\n")] = 0;
    for (char *rest = line, *word; count < 8 && (word = strsep(&rest, "\t"));) field[count++] = word;
    if (strcmp(field[0], "driver") == 0) copy(state->driver, field[1]);
    int slice = strcmp(field[0], "slice") == 0;
    if ((slice || strcmp(field[0], "gpu") == 0) && state->devices_count < MOST) {
        device_entry *device = &state->devices[state->devices_count++];
        copy(device->uuid, field[1]);
        copy(device->name, field[2]);
        device->total = number(field[3]);
        device->used = number(field[4]);
        device->reserved = number(field[5]);
        if (slice) copy(device->parent, field[6]);
        else device->mig = (int)number(field[6]);
    }
    if (strcmp(field[0], "process") == 0 && state->processes_count < MOST) {
        process_entry *process = &state->processes[state->processes_count++];
        copy(process->uuid, field[1]);
        copy(process->kind, field[2]);
        process->pid = (unsigned int)number(field[3]);
        process->used = field[4] && strcmp(field[4], "none") == 0 ? NOT_AVAILABLE : number(field[4]);
    }
    fault_entry *fault = NULL;
    if (strcmp(field[0], "fail") == 0 && state->faults_count < MOST) fault = &state->faults[state->faults_count++];
    if (strcmp(field[0], "delay") == 0 && state->delays_count < MOST) fault = &state->delays[state->delays_count++];
    if (fault) {
        copy(fault->group, field[1]);
        fault->code = (int)number(field[2]);
    }
}

/* Reads the state, waits as it says, and returns the fault that it sets for a group of functions. */
static int read_state(state_t *state, const char *group) {
    memset(state, 0, sizeof *state);
    const char *path = getenv("NVML_STAND_IN_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return ERROR_DRIVER_NOT_LOADED;
    char line[1024];
    while (fgets(line, sizeof line, file)) take(state, line);
    fclose(file);
    for (int place = 0; place < state->delays_count; place++)
        if (strcmp(state->delays[place].group, group) == 0) usleep(1000u * (unsigned int)state->delays[place].code);
    for (int place = 0; place < state->faults_count; place++) {
        const char *named = state->faults[place].group;
        if (strcmp(named, group) == 0 || (strcmp(named, "all") == 0 && strcmp(group, "init") != 0))
            return state->faults[place].code;
    }
    return SUCCESS;
}

static device_entry *find(state_t *state, const char *uuid) {
    for (int place = 0; uuid && place < state->devices_count; place++)
        if (strcmp(state->devices[place].uuid, uuid) == 0) return &state->devices[place];
    return NULL;
}

static int device_of(state_t *state, const char *group, void *handle, device_entry **device) {
    int code = read_state(state, group);
    if (code != SUCCESS) return code;
    *device = find(state, handle);
    return *device ? SUCCESS : ERROR_GPU_IS_LOST;
}

/* The index-th GPU (parent "") or slice of a GPU. */
static device_entry *nth(state_t *state, const char *parent, unsigned int index) {
    for (int place = 0; place < state->devices_count; place++)
        if (strcmp(state->devices[place].parent, parent) == 0 && index-- == 0) return &state->devices[place];
    return NULL;
}

int nvmlInitWithFlags(unsigned int flags) {
    state_t state;
    (void)flags;
    return read_state(&state, "init");
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) { return code == ERROR_GPU_IS_LOST ? "GPU is lost" : "an error of the stand-in"; }

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    state_t state;
    int code = read_state(&state, "driver");
    if (code == SUCCESS) snprintf(version, length, "%s", state.driver);
    return code;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    state_t state;
    int code = read_state(&state, "device");
    if (code != SUCCESS) return code;
    for (*count = 0; nth(&state, "", *count); (*count)++) {}
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    state_t state;
    int code = read_state(&state, "device");
    if (code != SUCCESS) return code;
    device_entry *device = nth(&state, "", index);
    if (!device) return ERROR_INVALID_ARGUMENT;
    *handle = handle_of(device->uuid);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    state_t state;
    int code = read_state(&state, "device");
    if (code != SUCCESS) return code;
    if (!find(&state, uuid)) return ERROR_NOT_FOUND;
    *handle = handle_of(uuid);
    return SUCCESS;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned int length) {
    state_t state;
    device_entry *device;
    int code = device_of(&state, "device", handle, &device);
    if (code == SUCCESS) snprintf(name, length, "%s", device->name);
    return code;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned int length) {
    state_t state;
    device_entry *device;
    int code = device_of(&state, "device", handle, &device);
    if (code == SUCCESS) snprintf(uuid, length, "%s", device->uuid);
    return code;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_v1 *memory) {
    state_t state;
    device_entry *device;
    int code = device_of(&state, "memory", handle, &device);
    if (code != SUCCESS) return code;
    /* version 1 counts what the driver keeps as used */
    memory->total = device->total;
    memory->used = device->used + device->reserved;
    memory->free = device->total - memory->used;
    return SUCCESS;
}

static int list(void *handle, const char *kind, unsigned int *count, process_info *found) {
    state_t state;
    device_entry *device;
    int code = device_of(&state, "processes", handle, &device);
    if (code != SUCCESS) return code;
    unsigned int listed = 0, room = *count;
    for (int place = 0; place < state.processes_count; place++) {
        process_entry *process = &state.processes[place];
        if (strcmp(process->uuid, device->uuid) != 0 || strcmp(process->kind, kind) != 0) continue;
        if (listed < room && found) {
            memset(&found[listed], 0, sizeof *found);
            found[listed].pid = process->pid;
            found[listed].used = process->used;
        }
        listed++;
    }
    *count = listed;
    return listed > room ? ERROR_INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned int *count, process_info *found) {
    return list(handle, "compute", count, found);
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(void *handle, unsigned int *count, process_info *found) {
    return list(handle, "graphics", count, found);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_info *found) {
    return list(handle, "compute", count, found);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned int *count, process_info *found) {
    return list(handle, "graphics", count, found);
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, memory_v2 *memory) {
    state_t state;
    device_entry *device;
    int code = device_of(&state, "memory_v2", handle, &device);
    if (code == SUCCESS) code = device_of(&state, "memory", handle, &device);
    if (code != SUCCESS) return code;
    if (memory->version != (sizeof *memory | (2u << 24))) return ERROR_ARGUMENT_VERSION_MISMATCH;
    memory->total = device->total;
    memory->reserved = device->reserved;
    memory->used = device->used;
    memory->free = device->total - device->used - device->reserved;
    return SUCCESS;
}
#endif

int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    state_t state;
    device_entry *device;
    int code = device_of(&state, "mig", handle, &device);
    if (code != SUCCESS) return code;
    if (device->mig < 0 || device->parent[0]) return ERROR_NOT_SUPPORTED; /* a board without slices, or a slice */
    *current = *pending = (unsigned int)device->mig;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned int *count) {
    state_t state;
    device_entry *device;
    int code = device_of(&state, "mig", handle, &device);
    *count = 7;
    return code;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned int index, void **slice) {
    state_t state;
    device_entry *device;
    int code = device_of(&state, "mig", handle, &device);
    if (code != SUCCESS) return code;
    device_entry *found = nth(&state, device->uuid, index);
    if (!found) return ERROR_NOT_FOUND;
    *slice = handle_of(found->uuid);
    return SUCCESS;
}
