// A whole plugin in C, without an SDK, a libc or generated code: wit/core-abi.md and eighty lines of protobuf.
//
//   clang-14 --target=wasm32 -O2 -ffreestanding -fno-builtin -nostdlib -Wl,--no-entry -o plugin.wasm plugin.c
//
// It imports one function of the host and exports five. See README.md for what each of them owes the host.
#include <stddef.h>
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(name) __attribute__((import_module("mortise"), import_name(name)))

IMPORT("log") void host_log(const uint8_t *record, uint32_t len);

// === memory ===
// An arena that is empty again when everything in it was freed, which is after every call. The host frees replies with mortise_free.

#define PAGE 65536u
extern uint8_t __heap_base;
static uintptr_t top;
static uint32_t live;

static void fail(void) { __builtin_trap(); }

EXPORT("mortise_alloc") void *mortise_alloc(uint32_t size) {
  if (live == 0) top = (uintptr_t)&__heap_base;
  uintptr_t at = (top + 7) & ~(uintptr_t)7;
  uintptr_t end = at + size;
  uintptr_t have = __builtin_wasm_memory_size(0) * PAGE;
  if (end < at) fail();
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + PAGE - 1) / PAGE) == (size_t)-1) fail();
  top = end;
  live++;
  return (void *)at;
}

EXPORT("mortise_free") void mortise_free(void *at, uint32_t size) {
  (void)at, (void)size;
  live--;
}

static void copy(uint8_t *to, const uint8_t *from, uint32_t len) {
  for (uint32_t i = 0; i < len; i++) to[i] = from[i];
}

static uint32_t length(const char *text) {
  uint32_t len = 0;
  while (text[len]) len++;
  return len;
}

// === protobuf ===

struct reader { const uint8_t *at, *end; int broken; };

static uint64_t varint(struct reader *in) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (in->at == in->end) break;
    uint8_t byte = *in->at++;
    value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  in->broken = 1;
  return 0;
}

static const uint8_t *bytes(struct reader *in, uint64_t len) {
  if (len > (uint64_t)(in->end - in->at)) {
    in->broken = 1;
    return in->at;
  }
  const uint8_t *at = in->at;
  in->at += len;
  return at;
}

// Finds field 1 of UpperRequest and steps over fields of later versions.
static int read_request(const uint8_t *at, uint32_t len, const uint8_t **text, uint32_t *text_len) {
  struct reader in = {at, at + len, 0};
  *text_len = 0;
  while (in.at != in.end && !in.broken) {
    uint64_t key = varint(&in);
    switch (key & 7) {
      case 0: varint(&in); break;
      case 1: bytes(&in, 8); break;
      case 5: bytes(&in, 4); break;
      case 2: {
        uint64_t size = varint(&in);
        const uint8_t *value = bytes(&in, size);
        if (key >> 3 == 1 && !in.broken) *text = value, *text_len = (uint32_t)size;
        break;
      }
      default: in.broken = 1;
    }
  }
  return !in.broken;
}

static uint8_t *write_varint(uint8_t *at, uint32_t value) {
  for (; value >= 0x80; value >>= 7) *at++ = (uint8_t)(value | 0x80);
  *at++ = (uint8_t)value;
  return at;
}

static uint8_t *write_text(uint8_t *at, int field, const uint8_t *text, uint32_t len) {
  *at++ = (uint8_t)(field << 3 | 2);
  at = write_varint(at, len);
  copy(at, text, len);
  return at + len;
}

// === the plugin ===

static struct { uint32_t tag; uint8_t *at; uint32_t len; } result;

static void *answer(uint32_t tag, uint8_t *at, uint8_t *end) {
  result.tag = tag, result.at = at, result.len = (uint32_t)(end - at);
  // An empty reply is not freed by the host.
  if (result.len == 0) mortise_free(at, 0);
  return &result;
}

static void *error(uint8_t code, const char *message) {
  uint32_t len = length(message);
  uint8_t *status = mortise_alloc(len + 16), *at = status;
  *at++ = 1 << 3, *at++ = code;
  return answer(1, status, write_text(at, 2, (const uint8_t *)message, len));
}

static void log_debug(const char *message) {
  uint8_t record[128], *at = record;
  *at++ = 1 << 3, *at++ = 2;
  at = write_text(at, 2, (const uint8_t *)"upper", 5);
  at = write_text(at, 3, (const uint8_t *)message, length(message));
  host_log(record, (uint32_t)(at - record));
}

static void *upper(const uint8_t *request, uint32_t request_len) {
  const uint8_t *text = request;
  uint32_t len;
  if (!read_request(request, request_len, &text, &len)) return error(3, "the request is no UpperRequest");
  uint8_t *reply = mortise_alloc(len + 8), *at = reply;
  if (len > 0) {
    at = write_text(at, 1, text, len);
    for (uint8_t *c = at - len; c < at; c++)
      if (*c >= 'a' && *c <= 'z') *c -= 'a' - 'A';
  }
  return answer(0, reply, at);
}

EXPORT("mortise_invoke")
void *mortise_invoke(uint32_t method, uint8_t *head, uint32_t head_len, uint8_t *payload, uint32_t len) {
  void *answered = method == 0 ? upper(payload, len) : error(12, "the plugin has one method");
  // What the host allocated is ours from here on.
  mortise_free(head, head_len);
  mortise_free(payload, len);
  return answered;
}

EXPORT("mortise_start") void *mortise_start(uint8_t *request, uint32_t len) {
  log_debug("started");
  mortise_free(request, len);
  result.tag = 0, result.len = 0;
  return &result;
}

EXPORT("mortise_health") void *mortise_health(void) {
  uint8_t *health = mortise_alloc(2);
  health[0] = 1 << 3, health[1] = 1;
  return answer(0, health, health + 2);
}
