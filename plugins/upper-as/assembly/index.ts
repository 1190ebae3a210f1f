// A whole plugin in AssemblyScript, without an SDK: wit/core-abi.md and a little protobuf.
//
// It imports one function of the host and exports five. What the host allocated belongs to the plugin once it is entered; replies are
// freed by the host with `mortise_free`.

// @ts-ignore: decorator
@external("mortise", "log")
declare function host_log(record: usize, len: u32): void;

// === memory ===
// Pinned, so that the collector leaves it alone until it is freed.

export function mortise_alloc(size: u32): usize {
  return __pin(__new(size, idof<ArrayBuffer>()));
}

export function mortise_free(at: usize, size: u32): void {
  __unpin(at);
}

// === protobuf ===

let cursor: usize = 0;
let end: usize = 0;
let broken: bool = false;

function varint(): u64 {
  let value: u64 = 0;
  for (let shift: u64 = 0; shift < 64; shift += 7) {
    if (cursor == end) break;
    const byte = load<u8>(cursor++);
    value |= (<u64>(byte & 0x7f)) << shift;
    if (byte < 0x80) return value;
  }
  broken = true;
  return 0;
}

function skip(len: u64): usize {
  const at = cursor;
  if (len > <u64>(end - cursor)) {
    broken = true;
  } else {
    cursor += <usize>len;
  }
  return at;
}

class Text {
  constructor(public at: usize, public len: u32) {}
}

// Field 1 of UpperRequest; fields of later versions are stepped over. Null if it is no message.
function readRequest(at: usize, len: u32): Text | null {
  cursor = at;
  end = at + len;
  broken = false;
  const text = new Text(at, 0);
  while (cursor != end && !broken) {
    const key = varint();
    switch (<u32>(key & 7)) {
      case 0:
        varint();
        break;
      case 1:
        skip(8);
        break;
      case 5:
        skip(4);
        break;
      case 2: {
        const size = varint();
        const value = skip(size);
        if (key >> 3 == 1 && !broken) {
          text.at = value;
          text.len = <u32>size;
        }
        break;
      }
      default:
        broken = true;
    }
  }
  return broken ? null : text;
}

function writeText(at: usize, field: u8, text: usize, len: u32): usize {
  store<u8>(at++, (field << 3) | 2);
  let left = len;
  while (left >= 0x80) {
    store<u8>(at++, <u8>(left | 0x80));
    left >>= 7;
  }
  store<u8>(at++, <u8>left);
  memory.copy(at, text, len);
  return at + len;
}

// === the plugin ===

const RESULT: usize = memory.data(12);

function answer(tag: u32, at: usize, end: usize): usize {
  const len = <u32>(end - at);
  // An empty reply is not freed by the host.
  if (len == 0) mortise_free(at, 0);
  store<u32>(RESULT, tag, 0);
  store<u32>(RESULT, <u32>at, 4);
  store<u32>(RESULT, len, 8);
  return RESULT;
}

function fail(code: u8, message: string): usize {
  const text = String.UTF8.encode(message);
  const status = mortise_alloc(text.byteLength + 16);
  store<u8>(status, 1 << 3, 0);
  store<u8>(status, code, 1);
  return answer(1, status, writeText(status + 2, 2, changetype<usize>(text), text.byteLength));
}

function logDebug(message: string): void {
  const target = String.UTF8.encode("upper");
  const text = String.UTF8.encode(message);
  const record = mortise_alloc(target.byteLength + text.byteLength + 16);
  store<u8>(record, 1 << 3, 0);
  store<u8>(record, 2, 1);
  let at = writeText(record + 2, 2, changetype<usize>(target), target.byteLength);
  at = writeText(at, 3, changetype<usize>(text), text.byteLength);
  host_log(record, <u32>(at - record));
  mortise_free(record, 0);
}

function upper(request: usize, len: u32): usize {
  const text = readRequest(request, len);
  if (text === null) return fail(3, "the request is no UpperRequest");
  const reply = mortise_alloc(text.len + 8);
  let at = reply;
  if (text.len > 0) {
    at = writeText(at, 1, text.at, text.len);
    for (let c = at - text.len; c < at; c++) {
      const byte = load<u8>(c);
      if (byte >= 0x61 && byte <= 0x7a) store<u8>(c, byte - 0x20);
    }
  }
  return answer(0, reply, at);
}

export function mortise_invoke(method: u32, head: usize, headLen: u32, payload: usize, len: u32): usize {
  const answered = method == 0 ? upper(payload, len) : fail(12, "the plugin has one method");
  mortise_free(head, headLen);
  mortise_free(payload, len);
  return answered;
}

export function mortise_start(request: usize, len: u32): usize {
  logDebug("started");
  mortise_free(request, len);
  store<u32>(RESULT, 0, 0);
  store<u32>(RESULT, 0, 4);
  store<u32>(RESULT, 0, 8);
  return RESULT;
}

export function mortise_health(): usize {
  const health = mortise_alloc(2);
  store<u8>(health, 1 << 3, 0);
  store<u8>(health, 1, 1);
  return answer(0, health, health + 2);
}
