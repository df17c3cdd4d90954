/* The one GPU that is not there: what it is, and who holds what of it. Settings come from the environment (STAND_IN_GPU_...,
 * as benchmarks/stand_in_gpu.py sets them); what is held stands in a file that all processes share. */
#ifndef STAND_IN_GPU_DEVICE_H
#define STAND_IN_GPU_DEVICE_H
#include <stdint.h>

typedef struct { unsigned int pid; uint64_t bytes; } holder;

/* Whether there is a GPU at all: a ledger is named, and CUDA_VISIBLE_DEVICES does not hide it. */
int device_is_visible(void);
int device_is_there(void);
/* A setting, or what it is without one. */
uint64_t device_number(const char *name, uint64_t otherwise);
const char *device_name(void);
int device_major(void), device_minor(void), device_processors(void), device_threads(void);
/* The compute capability that a kernel's code in torch is of: the newest that torch was compiled for and this GPU can run. */
int device_code(void);
/* Bytes of the whole GPU, of it what its driver keeps for itself, and what all processes hold together. */
uint64_t device_total(void), device_driver(void), device_used(void);
/* This process has a context from now on, if there is room for it; 0 where there is none. */
int device_begin(void);
int device_has_begun(void);
/* Takes bytes for this process; 0 where the GPU has not so many left. */
int device_take(uint64_t bytes);
void device_give_back(uint64_t bytes);
/* Who holds something, up to room of them; returns how many there are. */
unsigned int device_holders(holder *found, unsigned int room);
/* Addresses that no process can read or write, as of a device's memory. */
uint64_t device_addresses(uint64_t bytes);
int device_has_address(const void *address);
#endif
