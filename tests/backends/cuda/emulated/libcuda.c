/* A test double of the CUDA driver, on host memory. It proves nothing about a GPU: work is done at the moment it is
 * enqueued, by memcpy. What it is for: to run the real cuda-bindings and PyCUDA without a GPU through every path of the
 * device layer, also those on which a call fails, and to tell what is still allocated at the end.
 *
 * It is strict where a mistake of the caller's would hide: copies outside live allocations, handles that were destroyed,
 * calls without a context, events that were captured or have no timing are refused as CUDA refuses them. New pinned
 * memory is full of 0xA5.
 *
 *   LPCNET_EMULATED_FAIL=cuMemAlloc:2:700   the second cuMemAlloc gives 700; also by emulated_fail() at run time.
 *                                           After a sticky error every call gives it, but those that say which
 *                                           context is current.
 *   LPCNET_EMULATED_DEVICES, _VERSION, _INTEGRATED   1, 13000, 0 unless set
 *   LPCNET_EMULATED_WITHOUT=cuEventElapsedTime       cuGetProcAddress does not find it
 *   emulated_alive(kind)    how many are still allocated, of one kind or (NULL) of all
 *   emulated_calls(name)    how often a function was called
 *   emulated_pend(n)        the next n queries of events say that they are not ready
 *   emulated_reset()        as at the start: nothing allocated, nothing failed, no context
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, ILLEGAL_STATE = 401, NOT_FOUND = 500, NOT_READY = 600,
    ILLEGAL_ADDRESS = 700, CONTEXT_IS_DESTROYED = 709, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901, CAPTURE_UNJOINED = 904, CAPTURED_EVENT = 907
};

static const struct { int code; const char *name, *text; } ERRORS[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {907, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

CUresult cuGetErrorName(CUresult error, const char **text) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == error) return *text = ERRORS[i].name, SUCCESS;
    return *text = NULL, INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == error) return *text = ERRORS[i].text, SUCCESS;
    return *text = NULL, INVALID_VALUE;
}

/* Calls: counted, and made to fail. */

static struct { char name[64]; int count, fail_at, code; } calls[128];
static int sticky, initialised;

static int *call_slot(const char *name) {
    int i = 0;
    while (calls[i].name[0] && strcmp(calls[i].name, name)) i++;
    if (i == 127) abort();
    strncpy(calls[i].name, name, 63);
    return &calls[i].count;
}

void emulated_fail(const char *name, int nth, int code) {
    int i = (int)((char *)call_slot(name) - (char *)&calls[0].count) / (int)sizeof *calls;
    calls[i].fail_at = calls[i].count + nth;
    calls[i].code = code;
}

int emulated_calls(const char *name) { return *call_slot(name); }

static int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static CUresult entered(const char *name) {
    static int read_environment;
    if (!read_environment) {
        read_environment = 1;
        const char *wish = getenv("LPCNET_EMULATED_FAIL");
        char wanted[64];
        int nth, code;
        if (wish && sscanf(wish, "%63[^:]:%d:%d", wanted, &nth, &code) == 3) emulated_fail(wanted, nth, code);
    }
    int i = (int)((char *)call_slot(name) - (char *)&calls[0].count) / (int)sizeof *calls;
    calls[i].count++;
    if (sticky && strncmp(name, "cuCtxP", 6) && strncmp(name, "cuCtxG", 6) && strncmp(name, "cuCtxSet", 8)) return sticky;
    if (calls[i].count == calls[i].fail_at) {
        if (calls[i].code >= 700 && calls[i].code < 720) sticky = calls[i].code;
        return calls[i].code;
    }
    return initialised || !strcmp(name, "cuInit") || !strcmp(name, "cuDriverGetVersion") ? SUCCESS : NOT_INITIALIZED;
}

#define FUNCTION(NAME, ...) CUresult NAME(__VA_ARGS__)
#define ENTER(NAME) do { CUresult refused = entered(NAME); if (refused) return refused; } while (0)
#define ENTER_CONTEXT(NAME) do { ENTER(NAME); CUresult none = need_context(); if (none) return none; } while (0)

/* What is alive: memory and handles in one list. */

typedef struct Object {
    struct Object *next;
    const char *kind;
    char *address; /* of memory */
    size_t bytes;
    unsigned flags;
    struct Graph *capture; /* a stream's or an event's, while it captures */
    int is_origin, is_recorded, is_broken;
    double recorded_ms;
} Object;

static Object *alive;

static Object *make(const char *kind) {
    Object *made = calloc(1, sizeof *made);
    made->kind = kind;
    made->next = alive;
    return alive = made;
}

static Object *find(const void *handle, const char *kind) {
    for (Object *o = alive; o; o = o->next)
        if ((o == handle || (o->address && o->address == handle)) && !strcmp(o->kind, kind)) return o;
    return NULL;
}

static CUresult drop(const void *handle, const char *kind) {
    for (Object **at = &alive; *at; at = &(*at)->next)
        if (((*at) == handle || ((*at)->address && (*at)->address == handle)) && !strcmp((*at)->kind, kind)) {
            Object *gone = *at;
            *at = gone->next;
            free(gone->address);
            free(gone);
            return SUCCESS;
        }
    return INVALID_HANDLE;
}

int emulated_alive(const char *kind) {
    int count = 0;
    for (Object *o = alive; o; o = o->next) count += !kind || !strcmp(o->kind, kind);
    return count;
}

static int is_live(CUdeviceptr address, size_t bytes) {
    for (Object *o = alive; o; o = o->next)
        if (o->address && address >= (uintptr_t)o->address && address + bytes <= (uintptr_t)o->address + o->bytes)
            return 1;
    return 0;
}

/* Devices and contexts. A context is its device's number and a kind; each thread has a stack of them. */

typedef struct { int device, users, is_primary; } Context;
static Context primary[8];
static __thread Context *stack[16];
static __thread int depth;

static CUresult need_context(void) {
    if (!depth || !stack[depth - 1]) return INVALID_CONTEXT;
    return stack[depth - 1]->users > 0 ? SUCCESS : CONTEXT_IS_DESTROYED;
}

static CUresult need_device(int device) {
    return device >= 0 && device < setting("LPCNET_EMULATED_DEVICES", 1) ? SUCCESS : INVALID_DEVICE;
}

FUNCTION(cuInit, unsigned flags) {
    (void)flags;
    ENTER("cuInit");
    initialised = 1;
    return setting("LPCNET_EMULATED_DEVICES", 1) ? SUCCESS : NO_DEVICE;
}
FUNCTION(cuDriverGetVersion, int *version) {
    ENTER("cuDriverGetVersion");
    return *version = setting("LPCNET_EMULATED_VERSION", 13000), SUCCESS;
}
FUNCTION(cuDeviceGetCount, int *count) {
    ENTER("cuDeviceGetCount");
    return *count = setting("LPCNET_EMULATED_DEVICES", 1), SUCCESS;
}
FUNCTION(cuDeviceGet, CUdevice *device, int ordinal) {
    ENTER("cuDeviceGet");
    return *device = ordinal, need_device(ordinal);
}
FUNCTION(cuDeviceGetName, char *name, int length, CUdevice device) {
    ENTER("cuDeviceGetName");
    return snprintf(name, (size_t)length, "Emulated %d", device), SUCCESS;
}
FUNCTION(cuDeviceTotalMem_v2, size_t *bytes, CUdevice device) {
    (void)device;
    ENTER("cuDeviceTotalMem");
    return *bytes = (size_t)1 << 30, SUCCESS;
}
FUNCTION(cuDeviceComputeCapability, int *major, int *minor, CUdevice device) {
    (void)device;
    ENTER("cuDeviceComputeCapability");
    return *major = 8, *minor = 7, SUCCESS;
}
FUNCTION(cuDeviceGetAttribute, int *value, int attribute, CUdevice device) {
    ENTER("cuDeviceGetAttribute");
    switch (attribute) {
    case 13: *value = 1300000; break; /* CLOCK_RATE */
    case 16: *value = 16; break;      /* MULTIPROCESSOR_COUNT */
    case 18: *value = setting("LPCNET_EMULATED_INTEGRATED", 0); break;
    case 19: *value = 1; break;       /* CAN_MAP_HOST_MEMORY */
    case 75: *value = 8; break;       /* COMPUTE_CAPABILITY_MAJOR, _MINOR */
    case 76: *value = 7; break;
    default: return INVALID_VALUE;    /* a driver that does not know the memory's clock and width */
    }
    return need_device(device);
}
FUNCTION(cuDevicePrimaryCtxRetain, Context **context, CUdevice device) {
    ENTER("cuDevicePrimaryCtxRetain");
    if (need_device(device)) return INVALID_DEVICE;
    primary[device].device = device;
    primary[device].is_primary = 1;
    primary[device].users++;
    return *context = &primary[device], SUCCESS;
}
FUNCTION(cuDevicePrimaryCtxRelease_v2, CUdevice device) {
    CUresult refused = entered("cuDevicePrimaryCtxRelease"); /* the count goes down all the same */
    if (primary[device].users < 1) return INVALID_CONTEXT;
    primary[device].users--;
    return refused;
}
int emulated_contexts(void) { return primary[0].users + primary[1].users; }

FUNCTION(cuCtxCreate_v4, Context **context, void *parameters, unsigned flags, CUdevice device) {
    (void)parameters, (void)flags;
    ENTER("cuCtxCreate");
    *context = calloc(1, sizeof **context); /* never freed: a stale one must be told */
    (*context)->device = device;
    (*context)->users = 1;
    return stack[depth++] = *context, SUCCESS;
}
FUNCTION(cuCtxDetach, Context *context) {
    ENTER("cuCtxDetach");
    if (depth && stack[depth - 1] == context) depth--;
    return context->users--, SUCCESS;
}
FUNCTION(cuCtxGetCurrent, Context **context) {
    ENTER("cuCtxGetCurrent");
    return *context = depth ? stack[depth - 1] : NULL, SUCCESS;
}
FUNCTION(cuCtxSetCurrent, Context *context) {
    ENTER("cuCtxSetCurrent");
    if (depth) depth--;
    if (context) stack[depth++] = context;
    return SUCCESS;
}
FUNCTION(cuCtxPushCurrent_v2, Context *context) {
    ENTER("cuCtxPushCurrent");
    return stack[depth++] = context, SUCCESS;
}
FUNCTION(cuCtxPopCurrent_v2, Context **context) {
    ENTER("cuCtxPopCurrent");
    if (!depth) return INVALID_CONTEXT;
    depth--;
    if (context) *context = stack[depth];
    return SUCCESS;
}
FUNCTION(cuCtxGetDevice, CUdevice *device) {
    ENTER_CONTEXT("cuCtxGetDevice");
    return *device = stack[depth - 1]->device, SUCCESS;
}
FUNCTION(cuCtxSynchronize, void) {
    ENTER_CONTEXT("cuCtxSynchronize");
    int is_capturing = 0; /* "a broader handle which encompasses an active stream capture" must not be waited for */
    for (Object *o = alive; o; o = o->next)
        if (o->capture && !strcmp(o->kind, "stream")) is_capturing = o->is_broken = 1;
    return is_capturing ? CAPTURE_UNSUPPORTED : SUCCESS;
}

/* Memory. Mapped memory has one address, as with unified addressing. */

static CUresult allocate(const char *kind, size_t bytes, int filling, unsigned flags, void *address) {
    if (!bytes) return INVALID_VALUE;
    if (bytes > (size_t)1 << 30) return OUT_OF_MEMORY;
    char *memory = aligned_alloc(512, (bytes + 511) / 512 * 512);
    memset(memory, filling, bytes);
    Object *made = make(kind);
    made->address = memory;
    made->bytes = bytes;
    made->flags = flags;
    return memcpy(address, &memory, sizeof memory), SUCCESS;
}
FUNCTION(cuMemAlloc_v2, CUdeviceptr *address, size_t bytes) {
    ENTER_CONTEXT("cuMemAlloc");
    return allocate("memory", bytes, 0x5A, 0, address);
}
FUNCTION(cuMemFree_v2, CUdeviceptr address) {
    ENTER_CONTEXT("cuMemFree");
    return drop((void *)(uintptr_t)address, "memory") ? INVALID_VALUE : SUCCESS;
}
FUNCTION(cuMemHostAlloc, void **address, size_t bytes, unsigned flags) {
    ENTER_CONTEXT("cuMemHostAlloc");
    return allocate("pinned", bytes, 0xA5, flags, address);
}
FUNCTION(cuMemFreeHost, void *address) {
    ENTER_CONTEXT("cuMemFreeHost");
    return drop(address, "pinned") ? INVALID_VALUE : SUCCESS;
}
FUNCTION(cuMemHostGetDevicePointer_v2, CUdeviceptr *address, void *host, unsigned flags) {
    (void)flags;
    ENTER_CONTEXT("cuMemHostGetDevicePointer");
    Object *memory = find(host, "pinned");
    if (!memory || !(memory->flags & 2)) return INVALID_VALUE; /* DEVICEMAP */
    return *address = (uintptr_t)host, SUCCESS;
}
int emulated_flags(void *host) {
    Object *memory = find(host, "pinned");
    return memory ? (int)memory->flags : -1;
}
FUNCTION(cuMemGetInfo_v2, size_t *unused, size_t *total) {
    ENTER_CONTEXT("cuMemGetInfo");
    *unused = *total = (size_t)1 << 30;
    for (Object *o = alive; o; o = o->next)
        if (!strcmp(o->kind, "memory")) *unused -= o->bytes;
    return SUCCESS;
}

/* Streams, copies and graphs. */

typedef struct { CUdeviceptr target, source; size_t target_pitch, source_pitch, width, rows; } Copy;
typedef struct Graph { Object *object; Copy *copies; int count; } Graph;

static Graph *new_graph(const char *kind) {
    Graph *graph = calloc(1, sizeof *graph);
    graph->object = make(kind);
    return graph;
}
static CUresult drop_graph(Graph *graph, const char *kind) {
    for (Object *o = alive; o; o = o->next)
        if (o == graph->object && !strcmp(o->kind, kind)) {
            drop(graph->object, kind);
            free(graph->copies);
            return free(graph), SUCCESS;
        }
    return INVALID_VALUE;
}
static CUresult run(const Copy *copy) {
    for (size_t row = 0; row < copy->rows; row++) {
        CUdeviceptr target = copy->target + row * copy->target_pitch, source = copy->source + row * copy->source_pitch;
        if (!is_live(target, copy->width) || !is_live(source, copy->width)) return INVALID_VALUE;
        memmove((void *)(uintptr_t)target, (void *)(uintptr_t)source, copy->width);
    }
    return SUCCESS;
}
static CUresult enqueue(Object *handle, Copy copy) {
    Object *stream = find(handle, "stream");
    if (!stream) return INVALID_HANDLE;
    if (copy.target_pitch < copy.width || copy.source_pitch < copy.width) return INVALID_VALUE;
    if (!stream->capture) return run(&copy);
    Graph *graph = stream->capture;
    graph->copies = realloc(graph->copies, sizeof copy * (size_t)(graph->count + 1));
    return graph->copies[graph->count++] = copy, SUCCESS;
}

FUNCTION(cuStreamCreate, Object **stream, unsigned flags) {
    ENTER_CONTEXT("cuStreamCreate");
    *stream = make("stream");
    return (*stream)->flags = flags, SUCCESS;
}
FUNCTION(cuStreamDestroy_v2, Object *stream) {
    ENTER("cuStreamDestroy");
    return drop(stream, "stream");
}
FUNCTION(cuStreamSynchronize, Object *stream) {
    ENTER_CONTEXT("cuStreamSynchronize");
    if (!find(stream, "stream")) return INVALID_HANDLE;
    if (stream->capture) return stream->is_broken = 1, CAPTURE_UNSUPPORTED;
    return SUCCESS;
}
FUNCTION(cuMemcpyAsync, CUdeviceptr target, CUdeviceptr source, size_t bytes, Object *stream) {
    ENTER_CONTEXT("cuMemcpyAsync");
    return enqueue(stream, (Copy){target, source, bytes, bytes, bytes, 1});
}

typedef struct {
    size_t source_x, source_y;
    int source_type;
    const void *source_host;
    CUdeviceptr source;
    void *source_array;
    size_t source_pitch, target_x, target_y;
    int target_type;
    void *target_host;
    CUdeviceptr target;
    void *target_array;
    size_t target_pitch, width, rows;
} Rectangle; /* CUDA_MEMCPY2D */

FUNCTION(cuMemcpy2DAsync_v2, const Rectangle *of, Object *stream) {
    ENTER_CONTEXT("cuMemcpy2DAsync");
    if (of->source_type != 4 || of->target_type != 4) return INVALID_VALUE; /* CU_MEMORYTYPE_UNIFIED */
    return enqueue(stream, (Copy){of->target, of->source, of->target_pitch, of->source_pitch, of->width, of->rows});
}
FUNCTION(cuStreamBeginCapture_v2, Object *stream, int mode) {
    (void)mode;
    ENTER_CONTEXT("cuStreamBeginCapture");
    if (!find(stream, "stream")) return INVALID_HANDLE;
    if (stream->capture) return ILLEGAL_STATE;
    stream->is_origin = 1;
    return stream->capture = new_graph("graph"), SUCCESS;
}
FUNCTION(cuStreamEndCapture, Object *stream, Graph **graph) {
    *graph = NULL;
    ENTER_CONTEXT("cuStreamEndCapture");
    if (!find(stream, "stream")) return INVALID_HANDLE;
    if (!stream->capture || !stream->is_origin) return ILLEGAL_STATE;
    Graph *captured = stream->capture;
    int is_broken = stream->is_broken, is_unjoined = 0;
    for (Object *o = alive; o; o = o->next)
        if (o->capture == captured && !strcmp(o->kind, "stream")) {
            is_unjoined |= !o->is_origin;
            o->capture = NULL;
            o->is_origin = o->is_broken = 0;
        }
    if (is_broken || is_unjoined) {
        drop_graph(captured, "graph");
        return is_broken ? CAPTURE_INVALIDATED : CAPTURE_UNJOINED;
    }
    return *graph = captured, SUCCESS;
}
FUNCTION(cuGraphInstantiateWithFlags, Graph **executable, Graph *graph, unsigned long long flags) {
    (void)flags;
    ENTER_CONTEXT("cuGraphInstantiate");
    *executable = new_graph("executable");
    (*executable)->count = graph->count;
    (*executable)->copies = malloc(sizeof(Copy) * (size_t)(graph->count + 1));
    if (graph->count) memcpy((*executable)->copies, graph->copies, sizeof(Copy) * (size_t)graph->count);
    return SUCCESS;
}
FUNCTION(cuGraphDestroy, Graph *graph) {
    ENTER("cuGraphDestroy");
    return drop_graph(graph, "graph");
}
FUNCTION(cuGraphExecDestroy, Graph *graph) {
    ENTER("cuGraphExecDestroy");
    return drop_graph(graph, "executable");
}
FUNCTION(cuGraphLaunch, Graph *graph, Object *stream) {
    ENTER_CONTEXT("cuGraphLaunch");
    if (!find(stream, "stream") || !find(graph->object, "executable")) return INVALID_HANDLE;
    for (int i = 0; i < graph->count; i++) {
        CUresult failed = run(&graph->copies[i]);
        if (failed) return sticky = ILLEGAL_ADDRESS; /* a graph does not know that its memory went */
    }
    return SUCCESS;
}

/* Events. An event recorded in a capturing stream carries its capture to the stream that waits for it. */

static int pending;
void emulated_pend(int count) { pending = count; }

FUNCTION(cuEventCreate, Object **event, unsigned flags) {
    ENTER_CONTEXT("cuEventCreate");
    *event = make("event");
    return (*event)->flags = flags, SUCCESS;
}
FUNCTION(cuEventDestroy_v2, Object *event) {
    ENTER("cuEventDestroy");
    return drop(event, "event");
}
FUNCTION(cuEventRecord, Object *event, Object *stream) {
    ENTER_CONTEXT("cuEventRecord");
    if (!find(event, "event") || !find(stream, "stream")) return INVALID_HANDLE;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->recorded_ms = (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
    event->is_recorded = 1;
    event->capture = stream->capture;
    event->is_origin = stream->is_origin;
    return SUCCESS;
}
FUNCTION(cuStreamWaitEvent, Object *stream, Object *event, unsigned flags) {
    (void)flags;
    ENTER_CONTEXT("cuStreamWaitEvent");
    if (!find(event, "event") || !find(stream, "stream")) return INVALID_HANDLE;
    if (!event->capture) return SUCCESS;
    if (!stream->capture) stream->capture = event->capture; /* fork */
    else if (stream->is_origin) /* join: every branch, which is coarser than CUDA */
        for (Object *o = alive; o; o = o->next)
            if (o->capture == event->capture && !o->is_origin && !strcmp(o->kind, "stream")) o->capture = NULL;
    return SUCCESS;
}
FUNCTION(cuEventQuery, Object *event) {
    ENTER_CONTEXT("cuEventQuery");
    if (!find(event, "event")) return INVALID_HANDLE;
    if (event->capture) return CAPTURED_EVENT;
    return pending > 0 ? (pending--, NOT_READY) : SUCCESS;
}
FUNCTION(cuEventSynchronize, Object *event) {
    ENTER_CONTEXT("cuEventSynchronize");
    if (!find(event, "event")) return INVALID_HANDLE;
    return event->capture ? CAPTURED_EVENT : SUCCESS;
}
FUNCTION(cuEventElapsedTime_v2, float *ms, Object *start, Object *end) {
    ENTER_CONTEXT("cuEventElapsedTime");
    if (!find(start, "event") || !find(end, "event")) return INVALID_HANDLE;
    if ((start->flags | end->flags) & 2 || !start->is_recorded || !end->is_recorded) return INVALID_HANDLE;
    return *ms = (float)(end->recorded_ms - start->recorded_ms), SUCCESS;
}

void emulated_reset(void) {
    while (alive) drop(alive, alive->kind);
    for (int i = 0; i < 128; i++) calls[i].fail_at = 0;
    memset(primary, 0, sizeof primary);
    sticky = depth = pending = 0;
}

/* The names of functions are looked up without their version. */

CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    (void)version, (void)flags;
    const char *without = getenv("LPCNET_EMULATED_WITHOUT");
    Dl_info own;
    dladdr((void *)cuGetProcAddress_v2, &own);
    void *library = dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    *function = NULL;
    for (int i = 0; i < 4 && !*function && !(without && !strcmp(without, name)); i++) {
        char versioned[128];
        snprintf(versioned, sizeof versioned, "%s%s", name, (const char *[]){"_v4", "_v3", "_v2", ""}[i]);
        *function = dlsym(library, versioned);
    }
    dlclose(library);
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
