/* mortise.h: the C ABI between a Mortise host and a native plugin.
 *
 * A plugin is a shared library that exports one data symbol, `mortise_entry_v1`. Rules:
 *  - Every struct starts with `size`; fields are only ever appended. Read an optional field through MT_HAS only.
 *  - A minor version appends; a major version uses a new symbol name, and a library may export both.
 *  - Nobody frees the other side's memory. Slices are borrowed until the callee returns. `mt_out` is the host's buffer:
 *    the plugin writes through it and asks it to grow.
 *  - Nothing unwinds across the line. A plugin catches its own panics and exceptions and returns MT_E_PANIC.
 *  - Function threads are given per field: [any] from any thread, also at once; [control] one at a time, never at once
 *    with another [control] function of the same instance.
 *  - The encoded messages (Metadata, StartRequest, CallHead, Status, Health, LogRecord) are in proto/mortise/plugin/v1.
 *
 * The same metadata bytes that `mortise_entry_v1.metadata` names must stand in the object section ".mortise"
 * ("__DATA,__mortise" in Mach-O): the host reads and checks them there before it opens the library.
 * `mortise metadata --format c` writes them as a C array.
 */
#ifndef MORTISE_H
#define MORTISE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MT_MAGIC 0x3145544Du /* "MTE1" in memory order on a little-endian machine */
#define MT_ABI_MAJOR 1
#define MT_ABI_MINOR 0

/* True if the struct that `p` points to is long enough to have field `f`, and the field is set. */
#define MT_HAS(p, T, f) ((p)->size >= offsetof(T, f) + sizeof((p)->f) && (p)->f)

#if defined(_WIN32)
#define MT_EXPORT __declspec(dllexport)
#else
#define MT_EXPORT __attribute__((visibility("default")))
#endif

#if defined(__APPLE__)
#define MT_SECTION __attribute__((used, section("__DATA,__mortise")))
#elif defined(__GNUC__)
#define MT_SECTION __attribute__((used, section(".mortise")))
#endif

/* Bytes, borrowed: valid until the callee returns. ptr may be NULL when len is 0. */
typedef struct mt_slice {
  const uint8_t *ptr;
  size_t len;
} mt_slice;

/* UTF-8 without NUL, of static lifetime unless the field says otherwise. */
typedef struct mt_str {
  const char *ptr;
  size_t len;
} mt_str;

/* The host's output buffer. The plugin writes ptr[len..cap) and sets len; grow() makes cap at least min_cap,
 * may move ptr, and returns 0 or MT_E_NOMEM when the host's limit is reached. */
typedef struct mt_out {
  uint32_t size;
  uint32_t reserved;
  uint8_t *ptr;
  size_t len;
  size_t cap;
  int32_t (*grow)(struct mt_out *out, size_t min_cap);
} mt_out;

/* 0 = MT_OK, > 0 a gRPC status code, < 0 one of MT_E_*. When it is not 0, `out` may hold an encoded Status. */
typedef int32_t mt_status;
enum {
  MT_OK = 0,
  MT_E_UNKNOWN_METHOD = -1,
  MT_E_BAD_ARG = -2,
  MT_E_NOMEM = -3,
  MT_E_PANIC = -4,
  MT_E_DRAINING = -5,
  MT_PENDING = -6,
  MT_E_ABI = -7
};

/* mt_call.flags */
enum { MT_CALL_IDEMPOTENT = 1u << 0 };

/* What travels beside the payload. May be NULL on the fast path: no deadline, no trace, depth 0. */
typedef struct mt_call {
  uint32_t size;
  uint32_t flags;
  uint64_t call_id;          /* unique within the instance */
  uint64_t deadline_ns;      /* nanoseconds left when the call began; 0 = none */
  const uint32_t *cancelled; /* the host sets it to non-zero; the plugin polls it with an atomic load; may be NULL */
  mt_slice head;             /* an encoded CallHead: trace, metadata, caller */
  uint32_t depth;            /* nesting of plugin-to-plugin calls; the host refuses more than 32 */
  uint32_t reserved;
} mt_call;

typedef mt_status (*mt_invoke_fn)(void *self, const mt_call *call, mt_slice in, mt_out *out);

/* complete() is called exactly once, from any thread, possibly before invoke_async returns. invoke_async returns MT_PENDING; any
 * other status but MT_OK refuses the call, and complete() must then not be called. */
typedef struct mt_done {
  void (*complete)(void *ctx, mt_status status, mt_slice out);
  void *ctx;
} mt_done;

typedef mt_status (*mt_invoke_async_fn)(void *self, const mt_call *call, mt_slice in, mt_done done);

/* mt_method.flags */
enum {
  MT_METHOD_IDEMPOTENT = 1u << 0,
  MT_METHOD_NONBLOCKING = 1u << 1,
  MT_METHOD_CLIENT_STREAMING = 1u << 2, /* called through the extension "mortise.stream/1" only */
  MT_METHOD_SERVER_STREAMING = 1u << 3  /* the same */
};

typedef struct mt_method {
  uint32_t size;
  uint32_t flags;
  mt_str service; /* "package.Service" */
  mt_str method;
  uint8_t wire_hash[32];           /* all zero = not stated; otherwise it must be the metadata's */
  mt_invoke_fn invoke;             /* [any] NULL if the method is async only */
  mt_invoke_async_fn invoke_async; /* [any] NULL if the method is sync only. `in` and `call` stay valid until complete() */
} mt_method;

/* Returned by create(), owned by the plugin until destroy(). */
typedef struct mt_instance {
  uint32_t size;
  uint32_t n_methods;
  uint32_t method_stride; /* sizeof(mt_method) as the PLUGIN was built: walk `methods` with it */
  uint32_t reserved;
  void *self;
  const mt_method *methods;
  mt_status (*activate)(void *self, mt_out *err);     /* [control] may be NULL */
  mt_status (*deactivate)(void *self, mt_out *err);   /* [control] may be NULL; joins every thread the plugin started */
  mt_status (*health)(void *self, mt_out *health);    /* [any] may be NULL; writes an encoded Health */
  mt_status (*save_state)(void *self, mt_out *out);   /* not called: state travels by reserved methods, see proto/mortise/plugin/v1/state.proto */
  mt_status (*load_state)(void *self, mt_slice in, mt_out *err); /* not called */
  /* [any] may be NULL; for async methods. The host sets *cancelled first; the call may be unknown yet, or completed already. */
  void (*cancel)(void *self, uint64_t call_id);
  void (*destroy)(void *self);                        /* [control] the last call */
  const void *(*get_ext)(void *self, mt_str id);      /* [any] may be NULL; ids such as "mortise.stream/1" */
} mt_instance;

/* Valid from create() until destroy() returns. Every function is [any]. */
typedef struct mt_host {
  uint32_t size;
  uint16_t abi_major;
  uint16_t abi_minor;
  void *ctx;
  void (*log)(void *ctx, mt_slice record); /* an encoded LogRecord */
  /* Calls "package.Service/Method" of the host or of another plugin on behalf of call `parent` (NULL = none); blocks. */
  mt_status (*call)(void *ctx, const mt_call *parent, mt_str target, mt_slice in, mt_out *out);
  void (*panicked)(void *ctx, mt_str message, mt_str location); /* the plugin caught a panic; called before MT_E_PANIC is returned */
  const void *(*get_ext)(void *ctx, mt_str id);                 /* may be NULL; ids such as "mortise.executor/1" */
} mt_host;

/* mt_entry.flags */
enum {
  MT_F_UNLOAD_SAFE = 1u << 0, /* no thread-locals, no threads: the library may really be closed */
  MT_F_PANIC_ABORT = 1u << 1  /* a panic aborts the process: refused in process */
};

typedef struct mt_entry {
  uint32_t magic; /* MT_MAGIC */
  uint32_t size;
  uint16_t abi_major;
  uint16_t abi_minor;
  uint32_t flags;
  mt_slice metadata; /* the same bytes as in the object section: an encoded Metadata */
  /* `start` is an encoded StartRequest. On MT_OK, *out is an instance. Otherwise nothing is left behind. [any] */
  mt_status (*create)(const mt_host *host, mt_slice start, const mt_instance **out, mt_out *err);
  const void *(*get_ext)(mt_str id); /* may be NULL */
} mt_entry;

#ifndef MT_HOST_SIDE
extern MT_EXPORT const mt_entry mortise_entry_v1;
#endif

#ifdef __cplusplus
}
#endif

#endif /* MORTISE_H */
