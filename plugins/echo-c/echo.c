/* The conformance guest in plain C: the same contract as ../echo, without an SDK and without a library.
 *
 * It shows the whole of the native ABI in one file: the entry, an instance with its method table, replies through the host's
 * buffer, errors, log lines, calls to the host, cancellation. "metadata.h" is written from plugin.toml and contract/:
 *
 *   mortise metadata --format c plugins/echo-c > metadata.h
 *   cc -std=c11 -O2 -shared -fPIC -I include -I . plugins/echo-c/echo.c -o libecho_c.so
 */
#define _POSIX_C_SOURCE 200809L
#include "proto.h"
#include "metadata.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CANCELLED = 1, INVALID_ARGUMENT = 3, DEADLINE_EXCEEDED = 4, FAILED_PRECONDITION = 9 };

/* One running copy. Instances share the library, so whatever is an instance's own is in here and not in a static. */
typedef struct echo {
  mt_instance abi;
  const mt_host *host;
  atomic_ullong count;
  /* The StartRequest, and slices of it. */
  uint8_t *start;
  mt_slice config_json, plugin, version, instance;
} echo;

/* === helpers === */

/* Ends the call with an error: an encoded Status beside its code. */
static mt_status fail(mt_out *out, int code, const char *message) {
  out->len = 0;
  put_uint(out, 1, (uint64_t)code);
  put_text(out, 2, message);
  return code;
}

static mt_status malformed(mt_out *out) {
  return fail(out, INVALID_ARGUMENT, "the request does not parse as the message that the contract names");
}

static int is_cancelled(const mt_call *call) {
  return call && call->cancelled && atomic_load((const _Atomic uint32_t *)call->cancelled) != 0;
}

static uint64_t nanoseconds(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A buffer of our own, for requests to the host and its replies. The host writes into it through `grow`, as we write into its own. */
static int32_t heap_grow(mt_out *out, size_t min_cap) {
  size_t cap = min_cap < 256 ? 256 : min_cap;
  void *ptr = realloc(out->ptr, cap);
  if (!ptr) return MT_E_NOMEM;
  out->ptr = ptr, out->cap = cap;
  return 0;
}

static mt_out heap(void) {
  mt_out out = {sizeof out, 0, NULL, 0, 0, heap_grow};
  return out;
}

static mt_slice slice_of(const mt_out *out) {
  mt_slice slice = {out->ptr, out->len};
  return slice;
}

/* Calls the host on behalf of `call`. The reply, or the encoded Status of a failure, is in `reply`. */
static mt_status call_host(echo *e, const mt_call *call, mt_slice target, mt_slice request, mt_out *reply) {
  mt_str name = {(const char *)target.ptr, target.len};
  reply->len = 0;
  return e->host->call(e->host->ctx, call, name, request, reply);
}

static mt_slice text(const char *literal) {
  mt_slice slice = {(const uint8_t *)literal, strlen(literal)};
  return slice;
}

/* === methods, in the contract's order === */

static mt_status Echo(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  mt_slice request = in;
  pb_field field;
  int got;
  (void)self, (void)call;
  while ((got = pb_next(&in, &field)) > 0) {
    if (field.number == 1 && field.wire != PB_BYTES) return malformed(out);
    if (field.number == 2 && (field.wire != PB_BYTES || !is_utf8(field.bytes))) return malformed(out);
  }
  /* Request and reply are the same on the wire. */
  return got < 0 ? malformed(out) : put(out, request.ptr, request.len);
}

static mt_status Reverse(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  mt_slice original = {NULL, 0};
  pb_field field;
  int got;
  size_t at, len;
  (void)self, (void)call;
  while ((got = pb_next(&in, &field)) > 0)
    if (field.number == 1) original = field.bytes;
  if (got < 0 || !is_utf8(original)) return malformed(out);
  if (original.len == 0) return MT_OK;
  if (put_varint(out, 1 << 3 | PB_BYTES) != MT_OK || put_varint(out, original.len) != MT_OK) return MT_E_NOMEM;
  if (out->cap - out->len < original.len && out->grow(out, out->len + original.len) != 0) return MT_E_NOMEM;
  for (at = 0; at < original.len; at += len) {
    len = utf8_char(original.ptr + at, original.ptr + original.len);
    memcpy(out->ptr + out->len + original.len - at - len, original.ptr + at, len);
  }
  out->len += original.len;
  return MT_OK;
}

static mt_status Fail(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  mt_slice again = in, message = {NULL, 0};
  uint64_t code = 0, retryable = 0;
  pb_field field;
  int got;
  (void)self, (void)call;
  while ((got = pb_next(&in, &field)) > 0) {
    if (field.number == 1) code = field.value;
    if (field.number == 2) message = field.bytes;
    if (field.number == 4) retryable = field.value;
  }
  if (got < 0 || code == 0 || code > 16) return malformed(out);
  put_uint(out, 1, code);
  put_bytes(out, 2, message);
  /* A FailDetail is an Any on the wire. */
  while (pb_next(&again, &field) > 0)
    if (field.number == 3) put_present(out, 3, field.bytes);
  put_uint(out, 4, retryable);
  return (mt_status)code;
}

/* C has no panics. A plugin in a language that has tells the host like this, and takes no further calls. */
static mt_status Panic(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  echo *e = self;
  mt_str message = {"", 0}, location = {"echo.c", 6};
  pb_field field;
  (void)call, (void)out;
  while (pb_next(&in, &field) > 0)
    if (field.number == 1) message.ptr = (const char *)field.bytes.ptr, message.len = field.bytes.len;
  e->host->panicked(e->host->ctx, message, location);
  return MT_E_PANIC;
}

/* The first field as a number. */
static int64_t number_of(mt_slice in, uint32_t number) {
  uint64_t value = 0;
  pb_field field;
  int got;
  while ((got = pb_next(&in, &field)) > 0)
    if (field.number == number && field.wire == PB_VARINT) value = field.value;
  return got < 0 ? -1 : (int64_t)(value & 0xffffffffu);
}

static mt_status Spin(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  int64_t bound_ms = number_of(in, 1);
  uint64_t rounds = 0, end;
  (void)self, (void)call;
  if (bound_ms < 0) return malformed(out);
  end = nanoseconds(CLOCK_MONOTONIC) + (uint64_t)bound_ms * 1000000u;
  while (nanoseconds(CLOCK_MONOTONIC) < end) rounds++;
  return put_uint(out, 1, rounds);
}

static mt_status Allocate(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  int64_t mib = number_of(in, 1), leak = number_of(in, 2);
  size_t bytes, at;
  volatile uint8_t *block;
  (void)self, (void)call;
  if (mib < 0) return malformed(out);
  bytes = (size_t)mib << 20;
  if (!(block = malloc(bytes ? bytes : 1))) return MT_E_NOMEM;
  for (at = 0; at < bytes; at += 4096) block[at] = 1;
  if (!leak) free((void *)block);
  return put_uint(out, 1, bytes);
}

static mt_status Sleep(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  static const struct timespec step = {0, 1000000};
  int64_t ms = number_of(in, 1);
  uint64_t began = nanoseconds(CLOCK_MONOTONIC), now = began;
  (void)self;
  if (ms < 0) return malformed(out);
  for (; now < began + (uint64_t)ms * 1000000u; now = nanoseconds(CLOCK_MONOTONIC)) {
    if (is_cancelled(call)) {
      int late = call->deadline_ns && now - began >= call->deadline_ns;
      return fail(out, late ? DEADLINE_EXCEEDED : CANCELLED, "nobody waits for this call any more");
    }
    nanosleep(&step, NULL);
  }
  return MT_OK;
}

static mt_status Log(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  echo *e = self;
  int64_t lines = number_of(in, 1), level = number_of(in, 3);
  mt_slice message = {NULL, 0};
  mt_out record = heap();
  pb_field field;
  if (lines < 0) return malformed(out);
  while (pb_next(&in, &field) > 0)
    if (field.number == 2) message = field.bytes;
  put_uint(&record, 1, level == 0 ? 3 : (uint64_t)level);
  put_text(&record, 2, "echo");
  put_bytes(&record, 3, message);
  put_uint(&record, 5, call ? call->call_id : 0);
  for (; lines > 0; lines--) e->host->log(e->host->ctx, slice_of(&record));
  free(record.ptr);
  return MT_OK;
}

static mt_status HostInfo(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  echo *e = self;
  mt_slice head = {NULL, 0};
  pb_field field;
  (void)in;
  if (call) {
    put_uint(out, 1, call->deadline_ns != 0);
    put_uint(out, 2, call->deadline_ns);
    put_uint(out, 5, call->depth);
    put_uint(out, 7, call->call_id);
    head = call->head;
  }
  while (pb_next(&head, &field) > 0) {
    if (field.number == 3) put_bytes(out, 3, field.bytes);
    /* A Header is an entry of a map on the wire. */
    if (field.number == 4) put_present(out, 4, field.bytes);
    if (field.number == 6) put_bytes(out, 6, field.bytes);
  }
  put_bytes(out, 8, e->plugin);
  put_bytes(out, 9, e->version);
  put_bytes(out, 10, e->instance);
  put_bytes(out, 11, e->config_json);
  return put_uint(out, 12, nanoseconds(CLOCK_REALTIME));
}

/* One step of KvRoundTrip: the host's error becomes ours. */
static mt_status kv(echo *e, const mt_call *call, const char *target, const mt_out *request, mt_out *reply, mt_out *out) {
  mt_status status = call_host(e, call, text(target), slice_of(request), reply);
  if (status != MT_OK) {
    out->len = 0;
    put(out, reply->ptr, reply->len);
  }
  return status;
}

static mt_status KvRoundTrip(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  echo *e = self;
  mt_slice key = {NULL, 0}, value = {NULL, 0}, left;
  mt_out request = heap(), reply = heap();
  int64_t keep = number_of(in, 3);
  uint64_t existed = 1;
  mt_status status;
  pb_field field;
  if (keep < 0) return malformed(out);
  while (pb_next(&in, &field) > 0) {
    if (field.number == 1) key = field.bytes;
    if (field.number == 2) value = field.bytes;
  }
  put_bytes(&request, 1, key);
  if ((status = kv(e, call, "mortise.host.v1.Kv/Get", &request, &reply, out)) != MT_OK) goto done;
  for (left = slice_of(&reply); pb_next(&left, &field) > 0;)
    if (field.number == 1) put_present(out, 1, field.bytes);
  put_bytes(&request, 2, value);
  if ((status = kv(e, call, "mortise.host.v1.Kv/Set", &request, &reply, out)) != MT_OK) goto done;
  request.len = 0;
  put_bytes(&request, 1, key);
  if ((status = kv(e, call, "mortise.host.v1.Kv/Get", &request, &reply, out)) != MT_OK) goto done;
  for (left = slice_of(&reply); pb_next(&left, &field) > 0;)
    if (field.number == 1) put_bytes(out, 2, field.bytes);
  put_uint(&request, 2, 100);
  if ((status = kv(e, call, "mortise.host.v1.Kv/List", &request, &reply, out)) != MT_OK) goto done;
  for (left = slice_of(&reply); pb_next(&left, &field) > 0;)
    if (field.number == 1) put_present(out, 3, field.bytes);
  if (!keep) {
    request.len = 0;
    put_bytes(&request, 1, key);
    if ((status = kv(e, call, "mortise.host.v1.Kv/Delete", &request, &reply, out)) != MT_OK) goto done;
    existed = (uint64_t)number_of(slice_of(&reply), 1);
  }
  status = put_uint(out, 4, existed);
done:
  free(request.ptr);
  free(reply.ptr);
  return status;
}

static mt_status CallPlugin(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  mt_slice target = {NULL, 0}, payload = {NULL, 0};
  mt_out reply = heap();
  mt_status status;
  pb_field field;
  int got;
  while ((got = pb_next(&in, &field)) > 0) {
    if (field.number == 1) target = field.bytes;
    if (field.number == 2) payload = field.bytes;
  }
  if (got < 0) return malformed(out);
  status = call_host(self, call, target, payload, &reply);
  if (status == MT_OK) {
    status = put_bytes(out, 1, slice_of(&reply));
  } else {
    put(out, reply.ptr, reply.len);
  }
  free(reply.ptr);
  return status;
}

static mt_status Version(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  (void)call, (void)in;
  return put_bytes(out, 1, ((echo *)self)->version);
}

static mt_status Malformed(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  pb_field field, inner;
  int got;
  (void)self, (void)call;
  while ((got = pb_next(&in, &field)) > 0) {
    if (field.number == 1 && (field.wire != PB_BYTES || !is_utf8(field.bytes))) return malformed(out);
    if (field.number == 2 && field.wire != PB_FIXED64) return malformed(out);
    if (field.number == 3) {
      if (field.wire != PB_BYTES) return malformed(out);
      while ((got = pb_next(&field.bytes, &inner)) > 0)
        if (inner.number == 1 && (inner.wire != PB_BYTES || !is_utf8(inner.bytes))) return malformed(out);
      if (got < 0) return malformed(out);
    }
  }
  return got < 0 ? malformed(out) : MT_OK;
}

static mt_status Count(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  (void)call, (void)in;
  return put_uint(out, 1, atomic_fetch_add(&((echo *)self)->count, 1) + 1);
}

/* === the instance === */

#define STR(literal) {literal, sizeof(literal) - 1}
/* A wire hash of zeros is not stated; the host takes the metadata's. */
#define METHOD(name, flags) {sizeof(mt_method), flags, STR("mortise.test.v1.Echo"), STR(#name), {0}, name, NULL}

static const mt_method methods[] = {
    METHOD(Echo, MT_METHOD_NONBLOCKING | MT_METHOD_IDEMPOTENT),
    METHOD(Reverse, MT_METHOD_IDEMPOTENT),
    METHOD(Fail, 0),
    METHOD(Panic, 0),
    METHOD(Spin, 0),
    METHOD(Allocate, 0),
    METHOD(Sleep, 0),
    METHOD(Log, 0),
    METHOD(HostInfo, 0),
    METHOD(KvRoundTrip, 0),
    METHOD(CallPlugin, 0),
    METHOD(Version, 0),
    METHOD(Malformed, 0),
    METHOD(Count, 0),
};

static mt_status health(void *self, mt_out *out) {
  (void)self;
  return put_uint(out, 1, 1);
}

static void destroy(void *self) {
  free(((echo *)self)->start);
  free(self);
}

/* Configuration {"refuse": "why"} makes it refuse to start. No JSON library: a flat object, no escapes. */
static mt_status refusal(const char *config, mt_out *err) {
  const char *at = strstr(config, "\"refuse\"");
  char why[256];
  size_t len;
  if (!at || !(at = strchr(at + 8, ':')) || !(at = strchr(at, '"'))) return MT_OK;
  len = strcspn(++at, "\"");
  if (len >= sizeof why) len = sizeof why - 1;
  memcpy(why, at, len);
  why[len] = 0;
  return fail(err, FAILED_PRECONDITION, why);
}

static mt_status create(const mt_host *host, mt_slice start, const mt_instance **instance, mt_out *err) {
  static const mt_instance template = {
      sizeof(mt_instance), sizeof methods / sizeof *methods, sizeof(mt_method), 0, NULL, methods,
      NULL, NULL, health, NULL, NULL, NULL, destroy, NULL,
  };
  echo *e = calloc(1, sizeof *e);
  mt_slice left = {NULL, start.len};
  mt_status status;
  pb_field field;
  char *config;
  if (!e || !(e->start = malloc(start.len + 1))) {
    free(e);
    return MT_E_NOMEM;
  }
  if (start.len) memcpy(e->start, start.ptr, start.len);
  e->abi = template, e->abi.self = e, e->host = host, left.ptr = e->start;
  while (pb_next(&left, &field) > 0) {
    if (field.number == 1) e->config_json = field.bytes;
    if (field.number == 2) e->plugin = field.bytes;
    if (field.number == 3) e->version = field.bytes;
    if (field.number == 4) e->instance = field.bytes;
  }
  if (!(config = calloc(1, e->config_json.len + 1))) {
    destroy(e);
    return MT_E_NOMEM;
  }
  if (e->config_json.len) memcpy(config, e->config_json.ptr, e->config_json.len);
  status = refusal(config, err);
  free(config);
  if (status != MT_OK) {
    destroy(e);
    return status;
  }
  *instance = &e->abi;
  return MT_OK;
}

/* === the one exported symbol === */

MT_EXPORT const mt_entry mortise_entry_v1 = {
    MT_MAGIC, sizeof(mt_entry), MT_ABI_MAJOR, MT_ABI_MINOR, MT_F_UNLOAD_SAFE,
    {mortise_metadata, sizeof mortise_metadata}, create, NULL,
};
