/* libcublasLt: products that do nothing. Of algorithms there is one, and it needs no workspace. */
#include <stddef.h>
#include <string.h>

typedef struct { unsigned long long algorithm[8]; size_t workspace; int status; float waves; int reserved[4]; } heuristic;

size_t cublasLtGetVersion(void) { return 130100; }

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference,
                                   int wanted, heuristic *found, int *count) {
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)preference;
    if (wanted < 1) return *count = 0, 0;
    memset(found, 0, sizeof *found);
    return *count = 1, 0;
}
