/* The ledger: a file of slots, one for each process that has a context. A process locks its slot, and the kernel takes the lock
 * back when the process ends, however it ends: a slot without a lock holds nothing. */
#define _GNU_SOURCE
#include "device.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOTS 255
#define SLOT_BYTES 64
#define FIRST_ADDRESS (1ull << 44)
#define MOST_ADDRESSES (1ull << 43)
#define GRANULE 2097152ull

typedef struct { uint32_t pid, unused; uint64_t bytes; char rest[SLOT_BYTES - 16]; } slot;

static pthread_mutex_t one_thread = PTHREAD_MUTEX_INITIALIZER;
static slot *slots; /* slot 0 is the lock of the whole ledger */
static int ledger = -1;
static slot *own;
static uint32_t own_pid;
static uint64_t next_address = FIRST_ADDRESS;

uint64_t device_number(const char *name, uint64_t otherwise) {
    const char *said = getenv(name);
    return said && *said ? strtoull(said, NULL, 10) : otherwise;
}

const char *device_name(void) {
    const char *name = getenv("STAND_IN_GPU_NAME");
    return name ? name : "stand-in";
}

static int capability(void) { return (int)device_number("STAND_IN_GPU_CAPABILITY", 90); }
int device_major(void) { return capability() / 10; }
int device_minor(void) { return capability() % 10; }
int device_processors(void) { return (int)device_number("STAND_IN_GPU_PROCESSORS", 132); }
int device_threads(void) { return (int)device_number("STAND_IN_GPU_THREADS", 2048); }
int device_code(void) { return (int)device_number("STAND_IN_GPU_CODE", (uint64_t)capability()); }
uint64_t device_total(void) { return device_number("STAND_IN_GPU_TOTAL_BYTES", 0); }
uint64_t device_driver(void) { return device_number("STAND_IN_GPU_DRIVER_BYTES", 0); }

int device_is_there(void) {
    const char *file = getenv("STAND_IN_GPU_LEDGER");
    return file && access(file, R_OK | W_OK) == 0;
}

int device_is_visible(void) {
    const char *shown = getenv("CUDA_VISIBLE_DEVICES");
    return device_is_there() && (!shown || (*shown && *shown != '-'));
}

/* The ledger is never closed: closing a file gives back every lock that the process has on it. */
static int open_ledger(void) {
    if (slots) return 1;
    const char *file = getenv("STAND_IN_GPU_LEDGER");
    if (!file) return 0;
    if (ledger < 0) ledger = open(file, O_RDWR | O_CLOEXEC);
    if (ledger < 0 || ftruncate(ledger, (SLOTS + 1) * SLOT_BYTES) != 0) return 0;
    void *seen = mmap(NULL, (SLOTS + 1) * SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, ledger, 0);
    slots = seen == MAP_FAILED ? NULL : seen;
    return slots != NULL;
}

static int lock(int command, short kind, int place) {
    struct flock asked = {.l_type = kind, .l_whence = SEEK_SET, .l_start = place * SLOT_BYTES, .l_len = SLOT_BYTES};
    return fcntl(ledger, command, &asked) == 0 && (command != F_GETLK || asked.l_type != F_UNLCK);
}

/* Whether the process of this slot is alive; it is asked by another process or by itself. */
static int is_held(int place) {
    if (!slots[place].pid) return 0;
    return &slots[place] == own ? own_pid == (uint32_t)getpid() : lock(F_GETLK, F_WRLCK, place);
}

static uint64_t used(void) {
    uint64_t bytes = 0;
    for (int place = 1; place <= SLOTS; place++)
        if (is_held(place)) bytes += slots[place].bytes;
    return bytes;
}

static int has_room(uint64_t bytes) { return used() + bytes + device_driver() <= device_total(); }

/* With the ledger locked. A forked process is not the one that the context is of. */
static int begin(void) {
    if (own && own_pid == (uint32_t)getpid()) return 1;
    own = NULL;
    uint64_t context = device_number("STAND_IN_GPU_CONTEXT_BYTES", 0);
    if (!has_room(context)) return 0;
    for (int place = 1; place <= SLOTS; place++) {
        if (is_held(place) || !lock(F_SETLK, F_WRLCK, place)) continue;
        slots[place].bytes = context;
        slots[place].pid = own_pid = (uint32_t)getpid();
        own = &slots[place];
        return 1;
    }
    return 0;
}

static int enter(void) {
    pthread_mutex_lock(&one_thread);
    return open_ledger() && lock(F_SETLKW, F_WRLCK, 0);
}

static void leave(void) {
    if (slots) lock(F_SETLK, F_UNLCK, 0);
    pthread_mutex_unlock(&one_thread);
}

int device_has_begun(void) { return own && own_pid == (uint32_t)getpid(); }

int device_begin(void) {
    if (device_has_begun()) return 1;
    int done = enter() && begin();
    leave();
    return done;
}

int device_take(uint64_t bytes) {
    int taken = enter() && begin() && has_room(bytes);
    if (taken) own->bytes += bytes;
    leave();
    return taken;
}

void device_give_back(uint64_t bytes) {
    if (enter() && device_has_begun()) own->bytes -= bytes;
    leave();
}

uint64_t device_used(void) {
    pthread_mutex_lock(&one_thread);
    uint64_t bytes = open_ledger() ? used() : 0;
    pthread_mutex_unlock(&one_thread);
    return bytes;
}

unsigned int device_holders(holder *found, unsigned int room) {
    unsigned int count = 0;
    pthread_mutex_lock(&one_thread);
    for (int place = 1; open_ledger() && place <= SLOTS; place++) {
        if (!is_held(place)) continue;
        if (count < room) found[count] = (holder){slots[place].pid, slots[place].bytes};
        count++;
    }
    pthread_mutex_unlock(&one_thread);
    return count;
}

uint64_t device_addresses(uint64_t bytes) {
    return __atomic_fetch_add(&next_address, (bytes + GRANULE - 1) / GRANULE * GRANULE, __ATOMIC_RELAXED);
}

int device_has_address(const void *address) {
    return (uint64_t)address >= FIRST_ADDRESS && (uint64_t)address < FIRST_ADDRESS + MOST_ADDRESSES;
}
