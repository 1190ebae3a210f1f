//! A heap against a model: what is given out keeps its contents, its alignment and its distance from everything else.

use std::collections::BTreeMap;

use super::*;

/// A block that is out, and what was written all over it.
struct Out {
    layout: Layout,
    mark: u8,
}

/// Numbers without a pattern, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).expect("it is below a usize")
    }
}

fn check(block: usize, out: &Out) {
    // SAFETY: the block is out, so its bytes are ours and written.
    let bytes = unsafe { std::slice::from_raw_parts(block as *const u8, out.layout.size()) };
    assert!(
        bytes.iter().all(|it| *it == out.mark),
        "another block was written into this one"
    );
}

fn fill(block: *mut u8, layout: Layout, mark: u8) {
    assert!(!block.is_null() && (block as usize).is_multiple_of(layout.align()));
    // SAFETY: the block has the layout's size.
    unsafe { block.write_bytes(mark, layout.size()) };
}

#[test]
fn sizes_have_the_list_whose_blocks_hold_them() {
    for size in 1..=LARGEST {
        let class = class_of(size, 1).expect("it is small");
        let bytes = SMALLEST << class;
        assert!(
            size <= bytes && (class == 0 || size > bytes / 2),
            "{size} in {bytes}"
        );
    }
    assert_eq!(class_of(LARGEST + 1, 1), None);
    assert_eq!(class_of(1, SMALLEST * 2), None);
}

#[test]
fn blocks_keep_what_is_written_until_they_are_given_back() {
    let heap = Box::new(Heap::new());
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut out: BTreeMap<usize, Out> = BTreeMap::new();
    let mut mark = 0_u8;
    for _ in 0..60_000 {
        mark = mark.wrapping_add(1);
        let most = if numbers.below(20) == 0 { 3 * LARGEST } else { 300 };
        let layout =
            Layout::from_size_align(1 + numbers.below(most), 1 << numbers.below(7)).expect("a layout");
        let some = out.keys().nth(numbers.below(out.len().max(1))).copied();
        match (numbers.below(5), some) {
            (0 | 1, Some(block)) => {
                let old = out.remove(&block).expect("it was listed");
                check(block, &old);
                // SAFETY: it came from this heap with this layout.
                unsafe { heap.dealloc(block as *mut u8, old.layout) };
            }
            (2, Some(block)) => {
                let old = out.remove(&block).expect("it was listed");
                let kept = layout.size().min(old.layout.size());
                let layout = Layout::from_size_align(layout.size(), old.layout.align()).expect("a layout");
                // SAFETY: it came from this heap with this layout.
                let new = unsafe { heap.realloc(block as *mut u8, old.layout, layout.size()) };
                let head = Layout::from_size_align(kept, 1).expect("a layout");
                check(
                    new as usize,
                    &Out {
                        layout: head,
                        mark: old.mark,
                    },
                );
                fill(new, layout, mark);
                out.insert(new as usize, Out { layout, mark });
            }
            (3, _) => {
                // SAFETY: the size is not 0.
                let block = unsafe { heap.alloc_zeroed(layout) };
                check(block as usize, &Out { layout, mark: 0 });
                fill(block, layout, mark);
                out.insert(block as usize, Out { layout, mark });
            }
            _ => {
                // SAFETY: the size is not 0.
                let block = unsafe { heap.alloc(layout) };
                fill(block, layout, mark);
                out.insert(block as usize, Out { layout, mark });
            }
        }
    }
    assert!(!out.is_empty());
    for (block, it) in &out {
        check(*block, it);
    }
    for (block, it) in out {
        // SAFETY: it came from this heap with this layout.
        unsafe { heap.dealloc(block as *mut u8, it.layout) };
    }
}

#[test]
fn what_is_given_back_is_given_out_again() {
    let heap = Box::new(Heap::new());
    let layout = Layout::from_size_align(100, 8).expect("a layout");
    // SAFETY: the size is not 0, and each block goes back as it came.
    unsafe {
        let first = heap.alloc(layout);
        heap.dealloc(first, layout);
        for _ in 0..10 * CHUNK / 128 {
            let again = heap.alloc(layout);
            assert_eq!(
                again, first,
                "a call that frees what it takes must not use up the arena"
            );
            heap.dealloc(again, layout);
        }
    }
}
