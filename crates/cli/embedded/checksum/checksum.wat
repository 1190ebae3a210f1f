;; A whole plugin by hand, on the core-module ABI (wit/core-abi.md). build.rs assembles it and adds the metadata.
;;
;; Memory: 0 the result (tag, address, length), 64 the table, 128 and 192 the two errors, 4096 and up the arena.
(module
  (memory (export "memory") 1)

  ;; CRC-32 of each half byte, polynomial 0xedb88320.
  (data (i32.const 64)
    "\00\00\00\00\64\10\b7\1d\c8\20\6e\3b\ac\30\d9\26"
    "\90\41\dc\76\f4\51\6b\6b\58\61\b2\4d\3c\71\05\50"
    "\20\83\b8\ed\44\93\0f\f0\e8\a3\d6\d6\8c\b3\61\cb"
    "\b0\c2\64\9b\d4\d2\d3\86\78\e2\0a\a0\1c\f2\bd\bd")

  ;; Encoded Status messages: code (field 1) and message (field 2).
  (data (i32.const 128) "\08\03\12\1ethe request is no Crc32Request")
  (data (i32.const 192) "\08\0c\12\19the plugin has one method")

  ;; The arena is empty again when everything in it was freed, which is after every call.
  (global $top (mut i32) (i32.const 4096))
  (global $live (mut i32) (i32.const 0))

  (func $alloc (export "mortise_alloc") (param $size i32) (result i32)
    (local $at i32) (local $end i32) (local $have i32)
    (if (i32.eqz (global.get $live)) (then (global.set $top (i32.const 4096))))
    (local.set $at (global.get $top))
    (local.set $end (i32.add (local.get $at) (local.get $size)))
    (if (i32.lt_u (local.get $end) (local.get $at)) (then unreachable))
    (local.set $have (i32.shl (memory.size) (i32.const 16)))
    (if (i32.gt_u (local.get $end) (local.get $have))
      (then
        (local.set $have (i32.sub (local.get $end) (local.get $have)))
        (if (i32.eq
              (memory.grow (i32.add (i32.shr_u (local.get $have) (i32.const 16)) (i32.const 1)))
              (i32.const -1))
          (then unreachable))))
    (global.set $top (local.get $end))
    (global.set $live (i32.add (global.get $live) (i32.const 1)))
    (local.get $at))

  (func $free (export "mortise_free") (param $at i32) (param $size i32)
    (global.set $live (i32.sub (global.get $live) (i32.const 1))))

  ;; === protobuf: finds field 1 of Crc32Request and steps over fields of later versions ===

  (global $cursor (mut i32) (i32.const 0))
  (global $end (mut i32) (i32.const 0))
  (global $broken (mut i32) (i32.const 0))
  (global $data (mut i32) (i32.const 0))
  (global $len (mut i32) (i32.const 0))

  (func $varint (result i64)
    (local $value i64) (local $shift i64) (local $byte i64)
    (loop $next
      (if (i32.or
            (i32.ge_u (global.get $cursor) (global.get $end))
            (i64.gt_u (local.get $shift) (i64.const 63)))
        (then
          (global.set $broken (i32.const 1))
          (return (i64.const 0))))
      (local.set $byte (i64.load8_u (global.get $cursor)))
      (global.set $cursor (i32.add (global.get $cursor) (i32.const 1)))
      (local.set $value
        (i64.or
          (local.get $value)
          (i64.shl (i64.and (local.get $byte) (i64.const 127)) (local.get $shift))))
      (local.set $shift (i64.add (local.get $shift) (i64.const 7)))
      (br_if $next (i64.ge_u (local.get $byte) (i64.const 128))))
    (local.get $value))

  (func $skip (param $size i64)
    (if (i64.gt_u (local.get $size) (i64.extend_i32_u (i32.sub (global.get $end) (global.get $cursor))))
      (then (global.set $broken (i32.const 1)))
      (else (global.set $cursor (i32.add (global.get $cursor) (i32.wrap_i64 (local.get $size)))))))

  (func $read (param $at i32) (param $size i32)
    (local $key i64) (local $length i64)
    (global.set $cursor (local.get $at))
    (global.set $end (i32.add (local.get $at) (local.get $size)))
    (global.set $broken (i32.const 0))
    (global.set $len (i32.const 0))
    (block $done
      (loop $field
        (br_if $done (i32.or (global.get $broken) (i32.ge_u (global.get $cursor) (global.get $end))))
        (local.set $key (call $varint))
        (block $wrong (block $fixed32 (block $bytes (block $fixed64 (block $number
          (br_table $number $fixed64 $bytes $wrong $wrong $fixed32 $wrong
            (i32.wrap_i64 (i64.and (local.get $key) (i64.const 7)))))
          ;; $number
          (drop (call $varint))
          (br $field))
          ;; $fixed64
          (call $skip (i64.const 8))
          (br $field))
          ;; $bytes
          (local.set $length (call $varint))
          (if (i64.eq (i64.shr_u (local.get $key) (i64.const 3)) (i64.const 1))
            (then
              (global.set $data (global.get $cursor))
              (global.set $len (i32.wrap_i64 (local.get $length)))))
          (call $skip (local.get $length))
          (br $field))
          ;; $fixed32
          (call $skip (i64.const 4))
          (br $field))
        ;; $wrong
        (global.set $broken (i32.const 1)))))

  ;; === the plugin ===

  (func $crc (result i32)
    (local $crc i32) (local $at i32) (local $end i32)
    (local.set $crc (i32.const -1))
    (local.set $at (global.get $data))
    (local.set $end (i32.add (global.get $data) (global.get $len)))
    (block $done
      (loop $byte
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $crc (i32.xor (local.get $crc) (i32.load8_u (local.get $at))))
        (local.set $crc (call $half (local.get $crc)))
        (local.set $crc (call $half (local.get $crc)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $byte)))
    (i32.xor (local.get $crc) (i32.const -1)))

  (func $half (param $crc i32) (result i32)
    (i32.xor
      (i32.shr_u (local.get $crc) (i32.const 4))
      (i32.load offset=64 (i32.shl (i32.and (local.get $crc) (i32.const 15)) (i32.const 2)))))

  ;; The result, which is at address 0.
  (func $answer (param $tag i32) (param $at i32) (param $size i32) (result i32)
    (i32.store (i32.const 0) (local.get $tag))
    (i32.store (i32.const 4) (local.get $at))
    (i32.store (i32.const 8) (local.get $size))
    (i32.const 0))

  ;; The host frees an error too, and this one is not of the arena.
  (func $error (param $at i32) (param $size i32) (result i32)
    (global.set $live (i32.add (global.get $live) (i32.const 1)))
    (call $answer (i32.const 1) (local.get $at) (local.get $size)))

  (func (export "mortise_invoke")
    (param $method i32) (param $head i32) (param $head_len i32) (param $payload i32) (param $payload_len i32)
    (result i32)
    (local $reply i32)
    ;; What the host allocated is ours from here on; it stays readable until the next allocation into an empty arena.
    (call $free (local.get $head) (local.get $head_len))
    (if (local.get $method)
      (then
        (call $free (local.get $payload) (local.get $payload_len))
        (return (call $error (i32.const 192) (i32.const 29)))))
    (call $read (local.get $payload) (local.get $payload_len))
    (if (global.get $broken)
      (then
        (call $free (local.get $payload) (local.get $payload_len))
        (return (call $error (i32.const 128) (i32.const 34)))))
    ;; Field 1, 32 bits.
    (local.set $reply (call $alloc (i32.const 5)))
    (i32.store8 (local.get $reply) (i32.const 0x0d))
    (i32.store offset=1 (local.get $reply) (call $crc))
    (call $free (local.get $payload) (local.get $payload_len))
    (call $answer (i32.const 0) (local.get $reply) (i32.const 5))))
