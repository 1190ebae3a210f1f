/* As much of protobuf as a small plugin needs: reading fields one by one, writing them one by one. No allocation, no tables.
 * https://protobuf.dev/programming-guides/encoding/ */
#ifndef ECHO_PROTO_H
#define ECHO_PROTO_H

#include "mortise.h"

#include <string.h>

enum { PB_VARINT = 0, PB_FIXED64 = 1, PB_BYTES = 2, PB_FIXED32 = 5 };

/* === reading === */

/* One field of a message; `bytes` for PB_BYTES, `number` for the others. */
typedef struct pb_field {
  uint32_t number;
  uint32_t wire;
  uint64_t value;
  mt_slice bytes;
} pb_field;

static inline int pb_varint(mt_slice *in, uint64_t *value) {
  unsigned shift;
  *value = 0;
  for (shift = 0; shift < 64 && in->len; shift += 7) {
    uint8_t byte = *in->ptr;
    in->ptr++, in->len--;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return 1;
  }
  return 0;
}

/* Takes the next field from `in`: 1, or 0 at the end, or -1 if the rest is no protobuf message. */
static inline int pb_next(mt_slice *in, pb_field *field) {
  uint64_t tag, len = 0;
  if (in->len == 0) return 0;
  if (!pb_varint(in, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff) return -1;
  field->number = (uint32_t)(tag >> 3), field->wire = (uint32_t)(tag & 7), field->value = 0;
  switch (field->wire) {
  case PB_VARINT:
    return pb_varint(in, &field->value) ? 1 : -1;
  case PB_FIXED64:
    len = 8;
    break;
  case PB_FIXED32:
    len = 4;
    break;
  case PB_BYTES:
    if (!pb_varint(in, &len)) return -1;
    break;
  default:
    return -1;
  }
  if (len > in->len) return -1;
  field->bytes.ptr = in->ptr, field->bytes.len = (size_t)len;
  in->ptr += len, in->len -= (size_t)len;
  return 1;
}

/* The length of the UTF-8 character at `at`, or 0 if there is none. */
static inline size_t utf8_char(const uint8_t *at, const uint8_t *end) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  size_t i, len = *at < 0x80 ? 1 : *at >> 5 == 6 ? 2 : *at >> 4 == 14 ? 3 : *at >> 3 == 30 ? 4 : 0;
  uint32_t code = len == 1 ? *at : *at & (0x7fu >> len);
  if (len == 0 || (size_t)(end - at) < len) return 0;
  for (i = 1; i < len; i++) {
    if (at[i] >> 6 != 2) return 0;
    code = code << 6 | (at[i] & 0x3f);
  }
  return code >= least[len] && code < 0x110000 && code >> 11 != 0x1b ? len : 0;
}

static inline int is_utf8(mt_slice text) {
  size_t at = 0, len;
  for (; at < text.len; at += len)
    if ((len = utf8_char(text.ptr + at, text.ptr + text.len)) == 0) return 0;
  return 1;
}

/* === writing: into the host's buffer or one of our own, which grow alike === */

static inline mt_status put(mt_out *out, const void *bytes, size_t len) {
  if (len == 0) return MT_OK;
  if (out->cap - out->len < len) {
    if (len > SIZE_MAX - out->len || out->grow(out, out->len + len) != 0) return MT_E_NOMEM;
  }
  memcpy(out->ptr + out->len, bytes, len);
  out->len += len;
  return MT_OK;
}

static inline mt_status put_varint(mt_out *out, uint64_t value) {
  uint8_t bytes[10];
  size_t len = 0;
  do {
    bytes[len] = (uint8_t)(value & 0x7f), value >>= 7;
    if (value) bytes[len] |= 0x80;
    len++;
  } while (value);
  return put(out, bytes, len);
}

/* Zero is what a reader assumes, so it is not written. */
static inline mt_status put_uint(mt_out *out, uint32_t number, uint64_t value) {
  mt_status status;
  if (value == 0) return MT_OK;
  if ((status = put_varint(out, (uint64_t)number << 3 | PB_VARINT)) != MT_OK) return status;
  return put_varint(out, value);
}

/* A field that is there even if it is empty. */
static inline mt_status put_present(mt_out *out, uint32_t number, mt_slice bytes) {
  mt_status status;
  if ((status = put_varint(out, (uint64_t)number << 3 | PB_BYTES)) != MT_OK) return status;
  if ((status = put_varint(out, bytes.len)) != MT_OK) return status;
  return put(out, bytes.ptr, bytes.len);
}

static inline mt_status put_bytes(mt_out *out, uint32_t number, mt_slice bytes) {
  return bytes.len ? put_present(out, number, bytes) : MT_OK;
}

static inline mt_status put_text(mt_out *out, uint32_t number, const char *text) {
  mt_slice bytes = {(const uint8_t *)text, strlen(text)};
  return put_bytes(out, number, bytes);
}

#endif
