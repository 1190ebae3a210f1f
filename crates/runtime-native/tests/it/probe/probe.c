/* A plugin for tests: does what it is told, and breaks the ABI in one way per -DBAD_*. */
#define _GNU_SOURCE
#include "mortise.h"
#include "metadata.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef UNIQUE
#define UNIQUE "probe"
#endif
/* Makes the library's bytes, and so its digest, the test's own. */
MT_EXPORT const char probe_unique[] = UNIQUE;

typedef struct probe {
  mt_instance abi;
  const mt_host *host;
  atomic_int inside;
  atomic_int released;
  atomic_long count;
  /* The call that `n` waits with, until it is cancelled. */
  pthread_mutex_t lock;
  uint64_t waiting_id;
  mt_done waiting;
  /* The latest async call, completed or not. */
  mt_done last;
} probe;

static mt_status put(mt_out *out, const void *bytes, size_t len) {
  if (out->cap - out->len < len && out->grow(out, out->len + len) != 0) return MT_E_NOMEM;
  if (len != 0) memcpy(out->ptr + out->len, bytes, len);
  out->len += len;
  return MT_OK;
}

static int is_cancelled(const mt_call *call) {
  return call && call->cancelled && atomic_load((const _Atomic uint32_t *)call->cancelled) != 0;
}

/* An encoded Status { code = 1, message = 2 }. */
static mt_status fail(mt_out *out, int code, const char *message) {
  size_t len = strlen(message);
  unsigned char head[4] = {0x08, (unsigned char)code, 0x12, (unsigned char)len};
  put(out, head, sizeof head);
  put(out, message, len);
  return code;
}

static mt_status echo(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  (void)self, (void)call;
  return put(out, in.ptr, in.len);
}

static mt_status answer(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  int32_t status = 0;
  (void)self, (void)call;
  if (in.len < sizeof status) return MT_E_BAD_ARG;
  memcpy(&status, in.ptr, sizeof status);
  put(out, in.ptr + sizeof status, in.len - sizeof status);
  return status;
}

static mt_status meet(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  probe *p = self;
  atomic_fetch_add(&p->inside, 1);
  while (atomic_load(&p->inside) < in.ptr[0] && !is_cancelled(call)) usleep(200);
  /* Those that met leave together; those that were cancelled are no longer there. */
  if (atomic_load(&p->inside) < in.ptr[0]) {
    atomic_fetch_sub(&p->inside, 1);
    return fail(out, 1, "cancelled");
  }
  return MT_OK;
}

static mt_status stick(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  probe *p = self;
  (void)call, (void)in, (void)out;
  while (!atomic_load(&p->released)) usleep(200);
  return MT_OK;
}

static mt_status release(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  (void)call, (void)in, (void)out;
  atomic_store(&((probe *)self)->released, 1);
  return MT_OK;
}

typedef struct later {
  mt_done done;
  mt_slice in;
} later;

static void *complete_later(void *arg) {
  later *it = arg;
  usleep(1000);
  it->done.complete(it->done.ctx, MT_OK, it->in);
  free(it);
  return NULL;
}

static void cancel(void *self, uint64_t call_id) {
  probe *p = self;
  mt_done done = {NULL, NULL};
  mt_slice nothing = {NULL, 0};
  pthread_mutex_lock(&p->lock);
  if (p->waiting_id == call_id) done = p->waiting, p->waiting_id = 0;
  pthread_mutex_unlock(&p->lock);
  if (done.complete) done.complete(done.ctx, 1, nothing);
}

static mt_status begin(void *self, const mt_call *call, mt_slice in, mt_done done) {
  probe *p = self;
  pthread_t thread;
  later *it;
  mt_slice nothing = {NULL, 0};
  p->last = done;
  switch (in.len ? in.ptr[0] : 'i') {
  case 'i':
    done.complete(done.ctx, MT_OK, in);
    return MT_PENDING;
  case 't':
    it = malloc(sizeof *it);
    it->done = done, it->in = in;
    if (pthread_create(&thread, NULL, complete_later, it) != 0) abort();
    pthread_detach(thread);
    return MT_PENDING;
  case '2':
    done.complete(done.ctx, MT_OK, in);
    done.complete(done.ctx, MT_OK, nothing);
    return MT_PENDING;
  case 'n':
    pthread_mutex_lock(&p->lock);
    p->waiting_id = call->call_id, p->waiting = done;
    pthread_mutex_unlock(&p->lock);
    /* The host sets the flag first and calls `cancel` then, which may have been too early for us. */
    if (is_cancelled(call)) cancel(self, call->call_id);
    return MT_PENDING;
  case 'p':
    p->host->panicked(p->host->ctx, (mt_str){"async boom", 10}, (mt_str){"probe.c:2", 9});
    done.complete(done.ctx, MT_E_PANIC, nothing);
    return MT_PENDING;
  default:
    return 8;
  }
}

static mt_status grow(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  char text[32] = {0};
  size_t wanted;
  (void)self, (void)call;
  if (out->grow(out, SIZE_MAX) == 0) return MT_E_ABI;
  memcpy(text, in.ptr, in.len < 31 ? in.len : 31);
  wanted = strtoull(text, NULL, 10);
  if (out->grow(out, wanted) != 0) return MT_E_NOMEM;
  memset(out->ptr, 'x', wanted);
  out->len = wanted;
  return MT_OK;
}

static mt_status overrun(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  (void)self, (void)call, (void)in;
  out->len = out->cap + 1;
  return MT_OK;
}

static mt_status panic_now(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  probe *p = self;
  (void)call, (void)in, (void)out;
  p->host->panicked(p->host->ctx, (mt_str){"boom", 4}, (mt_str){"probe.c:1", 9});
  return MT_E_PANIC;
}

/* LogRecord { level = INFO, message = in, call_id }. */
static mt_status log_line(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  probe *p = self;
  unsigned char line[256] = {0x08, 3, 0x1a, (unsigned char)in.len};
  size_t len = 4 + in.len;
  (void)out;
  memcpy(line + 4, in.ptr, in.len);
  line[len++] = 0x28;
  line[len++] = (unsigned char)(call ? call->call_id : 0);
  p->host->log(p->host->ctx, (mt_slice){line, len});
  p->host->log(p->host->ctx, (mt_slice){(const uint8_t *)"\xff", 1});
  return MT_OK;
}

static mt_status call_host(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  probe *p = self;
  mt_str target = {(const char *)in.ptr, in.len};
  return p->host->call(p->host->ctx, call, target, in, out);
}

static mt_status count(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  char text[32];
  (void)call, (void)in;
  return put(out, text, (size_t)snprintf(text, sizeof text, "%ld", atomic_fetch_add(&((probe *)self)->count, 1) + 1));
}

static mt_status head(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  (void)self, (void)in;
  return call ? put(out, call->head.ptr, call->head.len) : MT_OK;
}

#define STR(s) {s, sizeof(s) - 1}
#ifdef BAD_NO_SUCH_METHOD
#define SERVICE STR("probe.v1.Other")
#else
#define SERVICE STR("probe.v1.Probe")
#endif
#ifdef BAD_HASH
#define HASH {1}
#else
#define HASH {0}
#endif
/* A row as a later minor version would have it: longer than this host knows. */
typedef struct row {
  mt_method m;
  void *appended;
} row;
#define ROW(name, fn, async) {{sizeof(row), 0, SERVICE, STR(name), HASH, fn, async}, NULL}
static const row rows[] = {
    ROW("Echo", echo, NULL),         ROW("Answer", answer, NULL),
    ROW("Meet", meet, NULL),         ROW("Stick", stick, NULL),
    ROW("Release", release, NULL),   ROW("Later", NULL, begin),
    ROW("LaterHere", NULL, begin),   ROW("Grow", grow, NULL),
    ROW("Overrun", overrun, NULL),   ROW("Panic", panic_now, NULL),
    ROW("Log", log_line, NULL),      ROW("CallHost", call_host, NULL),
    ROW("CallHostHere", call_host, NULL), ROW("Count", count, NULL),
    ROW("Head", head, NULL),
};

static mt_status activate(void *self, mt_out *err) {
  (void)self, (void)err;
#ifdef BAD_ACTIVATE
  return fail(err, 9, "no database");
#endif
  return MT_OK;
}

static mt_status deactivate(void *self, mt_out *err) {
  (void)self, (void)err;
#ifdef BAD_DEACTIVATE
  return fail(err, 13, "a thread would not end");
#endif
  return MT_OK;
}

/* Health { serving = true, detail = "fine" }. */
static mt_status health(void *self, mt_out *out) {
  (void)self;
#ifdef BAD_HEALTH
  while (!atomic_load(&((probe *)self)->released)) usleep(200);
#endif
  return put(out, "\x08\x01\x12\x04" "fine", 8);
}

#ifdef WITNESS
/* Tells the tests what happens when nobody calls any more. */
static void witness(const char *format, int a, int b) {
  FILE *file = fopen(WITNESS, "a");
  if (file) fprintf(file, format, a, b), fclose(file);
}
#endif

#ifdef BAD_LATE
/* A thread that the plugin forgot: it still uses what it held before `destroy`. */
typedef struct late {
  const mt_host *host;
  mt_done done;
} late;

static void *speak_late(void *arg) {
  late *it = arg;
  mt_slice line = {(const uint8_t *)"\x1a\x04late", 6};
  mt_out nowhere = {sizeof nowhere, 0, NULL, 0, 0, NULL};
  usleep(20 * 1000);
  it->host->log(it->host->ctx, line);
  it->host->panicked(it->host->ctx, (mt_str){"late", 4}, (mt_str){"", 0});
  it->done.complete(it->done.ctx, MT_OK, line);
  witness("late %d %d\n", it->host->call(it->host->ctx, NULL, (mt_str){"echo", 4}, line, &nowhere), 0);
  free(it);
  return NULL;
}
#endif

static void destroy(void *self) {
#ifdef BAD_LATE
  late *it = malloc(sizeof *it);
  pthread_t thread;
  it->host = ((probe *)self)->host, it->done = ((probe *)self)->last;
  if (pthread_create(&thread, NULL, speak_late, it) != 0) abort();
  pthread_detach(thread);
#endif
#ifdef WITNESS
  witness("destroyed after %d calls of Count, %d inside\n", (int)((probe *)self)->count, ((probe *)self)->inside);
#endif
  free(self);
}

static mt_status create(const mt_host *host, mt_slice start, const mt_instance **instance, mt_out *err) {
  probe *p;
  (void)start, (void)err;
#ifdef BAD_CREATE
  return fail(err, 9, "config.color is missing");
#endif
#ifdef BAD_CREATE_NULL
  return MT_OK;
#endif
#ifdef BAD_CREATE_SLOW
  usleep(400 * 1000);
#endif
  p = calloc(1, sizeof *p);
  if (!p) return MT_E_NOMEM;
  pthread_mutex_init(&p->lock, NULL);
  p->host = host;
  p->abi.size = sizeof p->abi;
#ifdef BAD_INSTANCE_SIZE
  p->abi.size = 16;
#endif
  p->abi.n_methods = sizeof rows / sizeof *rows;
#ifdef BAD_COUNT
  p->abi.n_methods = 0x7fffffff;
#endif
  p->abi.method_stride = sizeof *rows;
#ifdef BAD_STRIDE
  p->abi.method_stride = 8;
#endif
  p->abi.self = p;
  p->abi.methods = &rows[0].m;
  p->abi.activate = activate;
  p->abi.deactivate = deactivate;
  p->abi.health = health;
  p->abi.cancel = cancel;
  p->abi.destroy = destroy;
  *instance = &p->abi;
  return MT_OK;
}

#ifdef BAD_METADATA
static const unsigned char other_metadata[sizeof mortise_metadata] = {0x08, 2};
#define METADATA other_metadata
#else
#define METADATA mortise_metadata
#endif
#ifndef BAD_MAGIC
#define BAD_MAGIC MT_MAGIC
#endif
#ifndef BAD_MAJOR
#define BAD_MAJOR MT_ABI_MAJOR
#endif
#ifndef BAD_ENTRY_SIZE
#define BAD_ENTRY_SIZE sizeof(mt_entry)
#endif
#ifndef BAD_FLAGS
#define BAD_FLAGS 0
#endif
#ifdef BAD_SYMBOL
#define mortise_entry_v1 mortise_entry_v0
extern MT_EXPORT const mt_entry mortise_entry_v0;
#endif
MT_EXPORT const mt_entry mortise_entry_v1 = {
    BAD_MAGIC, BAD_ENTRY_SIZE, BAD_MAJOR, MT_ABI_MINOR, BAD_FLAGS, {METADATA, sizeof METADATA}, create, NULL,
};

#ifdef PROGRAM
int main(void) {
  return 0;
}
#endif
