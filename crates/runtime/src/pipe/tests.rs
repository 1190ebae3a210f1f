use std::{pin::pin, task::Wake, thread, time::Duration};

use super::*;

/// Runs a future on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Thread(thread::Thread);
    impl Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Thread(thread::current())).into();
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

const BOUNDS: Bounds = Bounds {
    messages: 3,
    bytes: 10,
};

fn bytes(len: usize) -> Bytes {
    Bytes::from(vec![7; len])
}

fn crashed() -> CallError {
    CallError::new(CallErrorKind::GuestFault, "crashed")
}

/// In every combination of a task and a thread, with more messages than fit.
#[test]
fn order_is_kept_between_tasks_and_threads() {
    const MANY: u32 = 5000;
    let number = |n: u32| Bytes::from(n.to_le_bytes().to_vec());
    for (task_sends, task_receives) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut sender, mut receiver) = pipe(BOUNDS);
        let sending = thread::spawn(move || {
            for n in 0..MANY {
                if task_sends {
                    block_on(sender.send(number(n))).unwrap();
                } else {
                    sender.send_blocking(number(n), None).unwrap();
                }
            }
            sender.end(Ok(()));
        });
        let mut next = || {
            if task_receives {
                block_on(receiver.next())
            } else {
                receiver.next_blocking(None).unwrap()
            }
        };
        for n in 0..MANY {
            assert_eq!(next().unwrap(), Some(number(n)));
        }
        assert_eq!(next().unwrap(), None);
        assert_eq!(next().unwrap(), None, "the end stays the end");
        sending.join().unwrap();
    }
}

#[test]
fn bounds_hold_in_messages_and_bytes() {
    let (mut sender, mut receiver) = pipe(BOUNDS);
    for _ in 0..3 {
        assert!(poll_once(sender.send(bytes(1))).is_ready());
    }
    assert!(
        poll_once(sender.send(bytes(1))).is_pending(),
        "three messages fit"
    );
    assert!(poll_once(receiver.next()).is_ready());
    assert!(poll_once(sender.send(bytes(9))).is_pending(), "ten bytes fit");
    assert!(poll_once(sender.send(bytes(8))).is_ready());
    for len in [1, 1, 8] {
        assert_eq!(block_on(receiver.next()).unwrap().unwrap().len(), len);
    }
    assert!(poll_once(sender.send(bytes(100))).is_ready(), "alone it goes");
    assert!(poll_once(sender.send(bytes(1))).is_pending());
    assert_eq!(
        sender.send_blocking(bytes(1), Some(Instant::now() + Duration::from_millis(1))),
        Err(Blocked::TimedOut)
    );
}

#[test]
fn dropped_futures_lose_and_queue_nothing() {
    let (mut sender, mut receiver) = pipe(Bounds {
        messages: 1,
        bytes: 10,
    });
    assert!(poll_once(receiver.next()).is_pending());
    assert!(poll_once(sender.send(bytes(1))).is_ready());
    assert!(poll_once(sender.send(bytes(2))).is_pending());
    assert_eq!(block_on(receiver.next()).unwrap().unwrap().len(), 1);
    assert!(
        poll_once(receiver.next()).is_pending(),
        "the dropped send queued nothing"
    );
}

#[test]
fn failure_comes_after_the_messages_and_an_abort_before_them() {
    let (mut sender, mut receiver) = pipe(BOUNDS);
    block_on(sender.send(bytes(1))).unwrap();
    sender.end(Err(CallError::new(CallErrorKind::Returned, "no more")));
    assert!(block_on(receiver.next()).unwrap().is_some());
    for _ in 0..2 {
        assert_eq!(block_on(receiver.next()).unwrap_err().to_string(), "no more");
    }

    let (mut sender, mut receiver) = pipe(BOUNDS);
    block_on(sender.send(bytes(1))).unwrap();
    receiver.abort_handle().abort(crashed());
    assert!(matches!(block_on(sender.send(bytes(1))), Err(SendError::Over)));
    sender.end(Ok(()));
    assert_eq!(block_on(receiver.next()).unwrap_err().to_string(), "crashed");
}

#[test]
fn abort_takes_what_is_unread_and_leaves_an_end_that_was_seen() {
    let (mut sender, mut receiver) = pipe(BOUNDS);
    let abort = receiver.abort_handle();
    block_on(sender.send(bytes(1))).unwrap();
    sender.end(Ok(()));
    abort.abort(crashed());
    assert_eq!(block_on(receiver.next()).unwrap_err().to_string(), "crashed");

    let (sender, mut receiver) = pipe(BOUNDS);
    let abort = receiver.abort_handle();
    sender.end(Ok(()));
    abort.abort(crashed());
    assert_eq!(block_on(receiver.next()).unwrap(), None);
}

#[test]
fn whoever_waits_hears_that_the_other_is_gone() {
    let (sender, receiver) = pipe(BOUNDS);
    let receiving = thread::spawn(move || receiver.next_blocking(None));
    drop(sender);
    let error = receiving.join().unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Cancelled);

    let (mut sender, receiver) = pipe(BOUNDS);
    for _ in 0..3 {
        block_on(sender.send(bytes(1))).unwrap();
    }
    let sending = thread::spawn(move || block_on(sender.send(bytes(1))));
    drop(receiver);
    assert!(matches!(sending.join().unwrap(), Err(SendError::Over)));
}

#[test]
fn an_end_that_is_said_does_not_count_as_abandoned() {
    let (mut sender, mut receiver) = pipe(BOUNDS);
    let abort = receiver.abort_handle();
    block_on(sender.send(bytes(1))).unwrap();
    sender.end(Ok(()));
    assert!(poll_once(abort.abandoned()).is_pending());
    assert!(block_on(receiver.next()).unwrap().is_some());
    drop(receiver);
    block_on(abort.abandoned());
}
