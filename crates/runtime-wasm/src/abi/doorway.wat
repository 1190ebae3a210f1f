;; Beside a kept guest of the unwrapped ABI: one entry from the host instead of three. `doorway.wasm` is this text in binary; a test compares them.
;; No names here: they would be in the binary.
(module
  (type (func (param i32 i32 i32 i32) (result i32)))
  (type (func (param i32 i32 i32 i32 i32) (result i32)))
  (type (func (param i32 i32)))
  (type (func (param i32 i32 i32) (result i32)))
  ;; 0: the guest's `cabi_realloc`
  (import "guest" "realloc" (func (type 0)))
  ;; 1: its `invoke`
  (import "guest" "invoke" (func (type 1)))
  ;; 2: copies head and payload to where they shall be
  (import "host" "fill" (func (type 2)))
  ;; 0: method, 1: length of the head, 2: of the payload
  (func (export "invoke") (type 3)
    (local i32 i32)
    (local.set 3 (call 0 (i32.const 0) (i32.const 0) (i32.const 1) (local.get 1)))
    (local.set 4 (call 0 (i32.const 0) (i32.const 0) (i32.const 1) (local.get 2)))
    (call 2 (local.get 3) (local.get 4))
    (call 1 (local.get 0) (local.get 3) (local.get 1) (local.get 4) (local.get 2))))
