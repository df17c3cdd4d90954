/* libcudnn: of each operation there is one engine, which does nothing. Its workspace is a setting (none without it), as cuDNN
 * alone knows what its engines take. Numbers of attributes and types as in NVIDIA's cudnn_graph.h. */
#include "device.h"

#include <stdlib.h>

#define NOT_SUPPORTED 3000
#define ENGINE_RESULTS 202
#define ENGINE_OF_CONFIGURATION 300
#define CONFIGURATION_WORKSPACE 303
#define CONFIGURATION_SHARED_MEMORY 304 /* of an int, all other sizes are of an int64_t */
#define PLAN_WORKSPACE 402
#define ENGINE_COUNT 802
#define TYPE_INT64 3

size_t cudnnGetVersion(void) { return device_number("STAND_IN_GPU_CUDNN", 0); }
size_t cudnnGetCudartVersion(void) { return device_number("STAND_IN_GPU_CUDA", 13000); }
const char *cudnnGetErrorString(int code) { return code ? "not there: cuDNN is a stand-in" : "success"; }
void cudnnGetLastErrorString(char *text, size_t room) { if (room) *text = 0; }

int cudnnGetProperty(int which, int *value) {
    size_t version = cudnnGetVersion();
    int parts[] = {(int)(version / 10000), (int)(version / 100 % 100), (int)(version % 100)};
    return *value = parts[which % 3], 0;
}

int cudnnCreate(void **handle) { return *handle = malloc(64), 0; }
int cudnnGetStream(void *handle, void **stream) { return (void)handle, *stream = NULL, 0; }
int cudnnCreateTensorDescriptor(void **made) { return *made = malloc(64), 0; }
int cudnnCreateFilterDescriptor(void **made) { return *made = malloc(64), 0; }
int cudnnCreateConvolutionDescriptor(void **made) { return *made = malloc(64), 0; }
int cudnnCreateActivationDescriptor(void **made) { return *made = malloc(64), 0; }
int cudnnCreateDropoutDescriptor(void **made) { return *made = malloc(64), 0; }
int cudnnDestroyTensorDescriptor(void *made) { return free(made), 0; }
int cudnnDestroyFilterDescriptor(void *made) { return free(made), 0; }
int cudnnDestroyConvolutionDescriptor(void *made) { return free(made), 0; }
int cudnnDestroyActivationDescriptor(void *made) { return free(made), 0; }
int cudnnDestroyDropoutDescriptor(void *made) { return free(made), 0; }
int cudnnBackendCreateDescriptor(int type, void **made) { return (void)type, *made = malloc(64), 0; }
int cudnnBackendDestroyDescriptor(void *made) { return free(made), 0; }

/* One of whatever descriptors are asked for, the plan's workspace, and of everything else (notes, knobs) none. */
int cudnnBackendGetAttribute(void *from, int attribute, int type, int64_t room, int64_t *count, void *found) {
    (void)from;
    int is_small = attribute == CONFIGURATION_SHARED_MEMORY;
    if (count) *count = attribute == ENGINE_RESULTS || attribute == ENGINE_OF_CONFIGURATION || type == TYPE_INT64 || is_small;
    if (room < 1 || !found) return 0;
    if (is_small) *(int *)found = 0;
    if (type != TYPE_INT64) return 0;
    int is_workspace = attribute == PLAN_WORKSPACE || attribute == CONFIGURATION_WORKSPACE;
    uint64_t workspace = is_workspace ? device_number("STAND_IN_GPU_CUDNN_WORKSPACE_BYTES", 0) : 0;
    *(int64_t *)found = attribute == ENGINE_COUNT ? 1 : (int64_t)workspace;
    return 0;
}

int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(void *handle, int mode, int operations, void *x, void *z, void *y,
                                                             void *scale, void *activation, size_t *bytes) {
    (void)handle, (void)mode, (void)operations, (void)x, (void)z, (void)y, (void)scale, (void)activation;
    return *bytes = 0, 0;
}

int cudnnGetBatchNormalizationBackwardExWorkspaceSize(void *handle, int mode, int operations, void *x, void *y, void *dy,
                                                      void *dz, void *dx, void *scale, void *activation, size_t *bytes) {
    (void)handle, (void)mode, (void)operations, (void)x, (void)y, (void)dy, (void)dz, (void)dx, (void)scale, (void)activation;
    return *bytes = 0, 0;
}

int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(void *handle, int mode, int operations, void *activation, void *x,
                                                         size_t *bytes) {
    (void)handle, (void)mode, (void)operations, (void)activation, (void)x;
    return *bytes = 0, 0;
}

#define DOES_NOTHING(name) int name(void) { return 0; }
DOES_NOTHING(cudnnSetStream)
DOES_NOTHING(cudnnSetTensorNdDescriptor)
DOES_NOTHING(cudnnSetFilterNdDescriptor)
DOES_NOTHING(cudnnSetConvolutionNdDescriptor)
DOES_NOTHING(cudnnSetConvolutionGroupCount)
DOES_NOTHING(cudnnSetConvolutionMathType)
DOES_NOTHING(cudnnSetActivationDescriptor)
DOES_NOTHING(cudnnBackendSetAttribute)
DOES_NOTHING(cudnnBackendFinalize)
DOES_NOTHING(cudnnBackendExecute)
DOES_NOTHING(cudnnBatchNormalizationForwardTrainingEx)
DOES_NOTHING(cudnnBatchNormalizationForwardInference)
DOES_NOTHING(cudnnBatchNormalizationBackwardEx)
