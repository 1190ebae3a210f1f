use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::stream;
use h2::server::{self, SendResponse};
use http_body_util::{BodyExt as _, StreamBody};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tower::Service as _;

use super::*;
use crate::transport::Wire;

const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// A connection that notes which frames each write had.
struct Noting {
    io: DuplexStream,
    writes: Writes,
}

/// The types of the frames of each write.
type Writes = Arc<Mutex<Vec<Vec<u8>>>>;

impl AsyncRead for Noting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Noting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.writes.lock().unwrap().push(kinds(&buf[..*bytes]));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The types of the frames in `bytes`, behind the preface if it is there.
fn kinds(bytes: &[u8]) -> Vec<u8> {
    let mut rest = bytes
        .strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap_or(bytes);
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = *rest {
        kinds.push(kind);
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    kinds
}

/// A client, the servers' ends of the connections that it will make, and what it wrote.
fn client(connections: usize) -> (Http2, Vec<DuplexStream>, Writes) {
    let (mut ours, mut theirs) = (VecDeque::new(), Vec::new());
    for _ in 0..connections {
        let (a, b) = tokio::io::duplex(1 << 20);
        ours.push_back(a);
        theirs.push(b);
    }
    let writes = Writes::default();
    let (noted, ours) = (writes.clone(), Mutex::new(ours));
    let dial: Dial = Arc::new(move || {
        let next = ours.lock().unwrap().pop_front();
        let writes = noted.clone();
        Box::pin(async move {
            let io = next.ok_or(io::ErrorKind::ConnectionRefused)?;
            Ok(Wire::new(Noting { io, writes }))
        })
    });
    (Http2::lazy(dial), theirs, writes)
}

fn request(body: Body) -> http::Request<Body> {
    http::Request::post("http://unused/a.B/C").body(body).unwrap()
}

fn whole(bytes: &'static [u8]) -> Body {
    Body::new(http_body_util::Full::new(Bytes::from_static(bytes)))
}

async fn call(client: &Http2, body: Body) -> Result<http::Response<Incoming>, StdError> {
    client.clone().call(request(body)).await
}

/// Answers every request with its own body.
async fn echo(io: DuplexStream) {
    let mut connection = server::handshake(io).await.unwrap();
    while let Some(Ok((request, reply))) = connection.accept().await {
        tokio::spawn(answer(request.into_body(), reply));
    }
}

async fn answer(mut body: RecvStream, mut reply: SendResponse<Bytes>) {
    let mut stream = reply.send_response(http::Response::new(()), false).unwrap();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        stream.send_data(data, false).unwrap();
    }
    stream.send_data(Bytes::new(), true).unwrap();
}

#[tokio::test]
async fn a_small_request_is_one_write() {
    let (client, mut servers, writes) = client(1);
    tokio::spawn(echo(servers.remove(0)));
    for _ in 0..3 {
        let reply = call(&client, whole(b"hello")).await.unwrap();
        assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "hello");
    }
    let writes = writes.lock().unwrap().clone();
    let requests: Vec<_> = writes.iter().filter(|it| it.contains(&HEADERS)).collect();
    assert_eq!(requests.len(), 3, "{writes:?}");
    assert!(requests.iter().all(|it| it.contains(&DATA)), "{writes:?}");
    assert!(
        writes
            .iter()
            .all(|it| it.contains(&HEADERS) || !it.contains(&DATA)),
        "{writes:?}"
    );
}

#[tokio::test]
async fn a_request_without_end_follows_the_window_of_its_peer() {
    let (client, mut servers, _) = client(1);
    tokio::spawn(echo(servers.remove(0)));
    const PARTS: usize = 400;
    let part = Bytes::from(vec![7; 100_000]);
    let parts = stream::iter((0..PARTS).map(move |_| Ok::<_, tonic::Status>(Frame::data(part.clone()))));
    let reply = call(&client, Body::new(StreamBody::new(parts))).await.unwrap();
    let mut body = reply.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(bytes, PARTS * 100_000);
}

#[tokio::test]
async fn a_call_that_is_dropped_is_reset_also_while_it_still_sends() {
    let (client, mut servers, _) = client(1);
    let io = servers.remove(0);
    let (seen, mut resets) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut connection = server::handshake(io).await.unwrap();
        while let Some(Ok((request, mut reply))) = connection.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                // Its head comes back if it asks for that.
                let early = (request.uri().path() == "/early")
                    .then(|| reply.send_response(http::Response::new(()), false).unwrap());
                let reason = match early {
                    Some(mut stream) => poll_fn(|cx| stream.poll_reset(cx)).await,
                    None => poll_fn(|cx| reply.poll_reset(cx)).await,
                };
                let _ = seen.send(reason.unwrap());
                drop(request);
            });
        }
    });
    let endless = || {
        let pending = stream::pending::<Result<Frame<Bytes>, tonic::Status>>();
        Body::new(StreamBody::new(pending))
    };
    // Before its head came back.
    let late = tokio::spawn({
        let client = client.clone();
        async move { call(&client, endless()).await.map(drop) }
    });
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    late.abort();
    assert_eq!(resets.recv().await, Some(Reason::CANCEL));
    // And after.
    let mut early = request(endless());
    *early.uri_mut() = "http://unused/early".parse().unwrap();
    let reply = client.clone().call(early).await.unwrap();
    drop(reply);
    assert_eq!(resets.recv().await, Some(Reason::CANCEL));
}

#[tokio::test]
async fn a_connection_that_broke_is_made_again_by_the_next_call() {
    let (client, mut servers, _) = client(2);
    let first = tokio::spawn(echo(servers.remove(0)));
    assert!(call(&client, whole(b"a")).await.is_ok());
    first.abort();
    let _ = first.await;
    tokio::spawn(echo(servers.remove(0)));
    // The connection's task may not have noticed yet: then one call ends with it.
    let _ = call(&client, whole(b"b")).await;
    assert!(call(&client, whole(b"c")).await.is_ok());
}

#[tokio::test]
async fn a_place_where_nobody_listens_is_an_error_at_once() {
    let (client, ..) = client(0);
    let error = Http2::connect(client.dial.clone()).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}
