/* libcublas: products that do nothing. Each thread asks for a handle of its own; torch keeps a workspace for each. */
#include <stddef.h>

static char rooms[4096][64];
static size_t made;

int cublasCreate_v2(void **handle) { return *handle = rooms[__atomic_fetch_add(&made, 1, __ATOMIC_RELAXED) % 4096], 0; }
int cublasGetMathMode(void *handle, int *mode) { return (void)handle, *mode = 0, 0; }
int cublasGetPointerMode_v2(void *handle, int *mode) { return (void)handle, *mode = 0, 0; }
int cublasGetVersion_v2(void *handle, int *version) { return (void)handle, *version = 130100, 0; }
