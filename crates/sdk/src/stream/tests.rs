use std::{collections::VecDeque, sync::Mutex};

use mortise_wire::Header;

use super::*;
use crate::Code;

/// A host that has sent these messages, and takes `room` replies before it goes away.
struct Host {
    requests: Mutex<VecDeque<Result<Option<bytes::Bytes>>>>,
    replies: Mutex<Vec<Header>>,
    room: usize,
}

impl StreamLink for Host {
    fn receive(&self) -> Result<Option<bytes::Bytes>> {
        self.requests
            .lock()
            .unwrap()
            .pop_front()
            .expect("nobody receives after the end")
    }

    fn send(&self, message: bytes::Bytes) -> Result<()> {
        let mut replies = self.replies.lock().unwrap();
        if replies.len() == self.room {
            return Err(Status::new(Code::Cancelled, "the caller is gone"));
        }
        replies.push(Header::decode(message).unwrap());
        Ok(())
    }
}

const TARGET: &str = "acme.v1.Greeter/Chat";

fn header(name: &str) -> Header {
    Header {
        name: name.to_owned(),
        value: String::new(),
    }
}

fn sent(name: &str) -> Result<Option<bytes::Bytes>> {
    Ok(Some(header(name).encode_to_vec().into()))
}

fn host(requests: impl IntoIterator<Item = Result<Option<bytes::Bytes>>>) -> Host {
    Host {
        requests: Mutex::new(requests.into_iter().collect()),
        replies: Mutex::default(),
        room: 3,
    }
}

fn names(host: Host) -> Vec<String> {
    let replies = host.replies.into_inner().unwrap();
    replies.into_iter().map(|it| it.name).collect()
}

#[test]
fn server_streaming_takes_one_request() {
    let it = host([sent("a")]);
    server(TARGET, &it, |request: Header, replies| {
        replies.send(request)?;
        replies.send(header("b"))
    })
    .unwrap();
    assert_eq!(names(it), ["a", "b"]);

    let error = server(
        TARGET,
        &host([Ok(None)]),
        |_: Header, _: &mut Replies<'_, Header>| panic!("there is no request"),
    )
    .unwrap_err();
    assert_eq!(
        (error.kind(), error.message.as_str()),
        (
            Code::InvalidArgument,
            "the caller of `acme.v1.Greeter/Chat` sent no request; send one before the end"
        )
    );
}

#[test]
fn client_streaming_answers_once() {
    let it = host([sent("a"), sent("b"), Ok(None)]);
    client(TARGET, &it, |requests: &mut Requests<'_, Header>| {
        let names: Result<Vec<_>> = requests.map(|it| Ok(it?.name)).collect();
        assert!(requests.next().is_none(), "the end stays the end");
        Ok(header(&names?.concat()))
    })
    .unwrap();
    assert_eq!(names(it), ["ab"]);
}

#[test]
fn a_caller_that_goes_ends_the_method() {
    let it = host([]);
    let mut sent = 0;
    let error = bidi(TARGET, &it, |_: &mut Requests<'_, Header>, replies| {
        loop {
            replies.send(header("again"))?;
            sent += 1;
        }
    })
    .unwrap_err();
    assert_eq!((error.kind(), sent), (Code::Cancelled, 3));
}

#[test]
fn what_does_not_parse_is_told_once_and_ends_the_requests() {
    let it = host([Ok(Some(bytes::Bytes::from_static(&[0xff])))]);
    let mut requests = Requests::<'_, Header>::new(&it, TARGET);
    let error = requests.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), Code::InvalidArgument);
    assert!(
        error
            .message
            .starts_with("a request of `acme.v1.Greeter/Chat` (1 bytes) does not parse:"),
        "{error}"
    );
    assert!(requests.next().is_none());
}
