;; A guest with every bad habit, for both ABIs: `{...}` is filled in by guests.rs.
;; A result is three words: tag (0 ok, 1 error), pointer, length.
(module
  (import "{host_module}" "log" (func $log (param i32 i32)))
  (import "{host_module}" "call" (func $call {call_type}))
  {extra_import}
  (memory (export "memory") {pages})
  (table $table {table} funcref)
  (global $counter (mut i32) (i32.const 0))
  (global $top (mut i32) (i32.const 4096))

  ;; Memory: bump only. A kept guest is reset when a reply has been read.
  (func $alloc (param $size i32) (result i32)
    (local $at i32) (local $end i32) (local $have i32)
    {alloc}
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (local.set $end (i32.add (local.get $at) (local.get $size)))
    (local.set $have (i32.shl (memory.size) (i32.const 16)))
    (if (i32.gt_u (local.get $end) (local.get $have))
      (then
        (if (i32.eq (i32.const -1)
              (memory.grow (i32.add (i32.shr_u (i32.sub (local.get $end) (local.get $have)) (i32.const 16)) (i32.const 1))))
          (then unreachable))))
    (global.set $top (local.get $end))
    (local.get $at))

  (func $result (param $tag i32) (param $at i32) (param $len i32) (result i32)
    (i32.store (i32.const 16) (local.get $tag))
    (i32.store (i32.const 20) (local.get $at))
    (i32.store (i32.const 24) (local.get $len))
    (i32.const 16))
  (func $word (param $value i32) (result i32)
    (i32.store (i32.const 64) (local.get $value))
    (call $result (i32.const 0) (i32.const 64) (i32.const 4)))

  (func $recurse (param i32) (result i32)
    (i32.add (i32.const 1) (call $recurse (i32.add (local.get 0) (i32.const 1)))))
  (func $fall_over unreachable)

  (func $start (result i32)
    {start}
    (call $result (i32.const 0) (i32.const 0) (i32.const 0)))

  (func $invoke (param $method i32) (param $at i32) (param $len i32) (result i32)
    (local $n i32) (local $grown i32)
    (block $unknown
     (block $late
     (block $head
      (block $polite
       (block $busy
        (block $lie
         (block $error
          (block $table
           (block $log
            (block $recurse
             (block $host
              (block $bomb
               (block $count
                (block $trap
                 (block $spin
                  (block $echo
                   (br_table $echo $spin $trap $count $bomb $host $recurse $log $table $error $lie $busy $polite $head $late $unknown
                     (local.get $method)))
                  ;; 0: the payload
                  (return (call $result (i32.const 0) (local.get $at) (local.get $len))))
                 ;; 1: never
                 (loop $forever (br $forever)))
                ;; 2: leaves a mark, then traps
                (global.set $counter (i32.const 700))
                (call $fall_over))
               ;; 3: how often it was called
               (global.set $counter (i32.add (global.get $counter) (i32.const 1)))
               (return (call $word (global.get $counter))))
              ;; 4: takes all memory there is
              (loop $more
                (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (call $fall_over)))
                (br $more)))
             ;; 5: calls the target that the payload names
             (call $call_host (local.get $at) (local.get $len))
             (return (i32.const 32)))
            ;; 6: overflows its stack
            (return (call $word (call $recurse (i32.const 0)))))
           ;; 7: logs the payload
           (call $log (local.get $at) (local.get $len))
           (return (call $result (i32.const 0) (i32.const 0) (i32.const 0))))
          ;; 8: how large its table gets
          (loop $more
            (if (i32.ne (table.grow $table (ref.null func) (i32.const 1000)) (i32.const -1)) (then (br $more))))
          (return (call $word (table.size $table))))
         ;; 9: the payload as its error
         (return (call $result (i32.const 1) (local.get $at) (local.get $len))))
        ;; 10: a reply outside its memory
        (return (call $result (i32.const 0) (i32.const 0x7fff0000) (i32.const 8))))
       ;; 11: counts to the number in the payload, which takes a while
       (local.set $n (i32.load (local.get $at)))
       (loop $more
         (local.set $n (i32.sub (local.get $n) (i32.const 1)))
         (br_if $more (local.get $n)))
       (return (call $word (i32.const 42))))
      ;; 12: asks for as many pages as the payload says, and lives with the answer
      (return (call $word (memory.grow (i32.load (local.get $at))))))
     ;; 13: the head as it came
     (return (call $result (i32.const 0) (global.get $head_at) (global.get $head_len))))
     ;; 14: computes for several ticks, then calls the target that the payload names
     (local.set $n (i32.const 300000000))
     (loop $more
       (local.set $n (i32.sub (local.get $n) (i32.const 1)))
       (br_if $more (local.get $n)))
     (call $call_host (local.get $at) (local.get $len))
     (return (i32.const 32)))
    unreachable)
  (global $head_at (mut i32) (i32.const 0))
  (global $head_len (mut i32) (i32.const 0))

  {exports}
  {extra}
)
