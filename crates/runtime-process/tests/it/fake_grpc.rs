//! The same plugin over gRPC, which it serves by hand and badly.

use std::{
    os::unix::net::UnixStream,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream, stream::BoxStream};
use mortise_goplugin::{BoxFuture, Invoked, Service, Shape, plugin::serve_socket};
use mortise_wire::{
    frame::{self, Decoder, Frame, Kind, transport},
    plugin::Piece,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Status;

use crate::fake::Begin;

/// How the plugin breaks the carrier, or the lane that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grpc {
    /// It does not.
    Well,
    /// It leaves the socket alone.
    SaysNothing,
    /// What it says is no HTTP/2.
    SpeaksHttp1,
    /// It serves everything but the frames.
    HasNoFrames,
    SendsAnEmptyPiece,
    SendsAHugePiece,
    SendsNoPiece,
    /// Pieces in good order, of bytes that are no frames.
    SendsGarbage,
    EndsTheFrames,
    FailsTheFrames,
    ClosesTheSocket,
}

impl Grpc {
    pub(crate) const ALL: [Self; 11] = [
        Self::Well,
        Self::SaysNothing,
        Self::SpeaksHttp1,
        Self::HasNoFrames,
        Self::SendsAnEmptyPiece,
        Self::SendsAHugePiece,
        Self::SendsNoPiece,
        Self::SendsGarbage,
        Self::EndsTheFrames,
        Self::FailsTheFrames,
        Self::ClosesTheSocket,
    ];
}

type Answers = mpsc::UnboundedSender<Result<Bytes, Status>>;

#[derive(Clone)]
struct Bad {
    how: Grpc,
    /// Frames go here, once they have a stream.
    frames: Arc<Mutex<Option<Answers>>>,
}

/// Serves on `socket`, on which Welcome has come, until it is killed.
pub(crate) fn run(begin: Begin, socket: UnixStream) -> ! {
    let Begin::Grpc(how) = begin else {
        panic!("{begin:?} has another lane")
    };
    if how == Grpc::SpeaksHttp1 {
        use std::io::Write as _;
        (&socket).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    }
    if how == Grpc::ClosesTheSocket {
        socket.shutdown(std::net::Shutdown::Both).unwrap();
    }
    if matches!(how, Grpc::SaysNothing | Grpc::SpeaksHttp1 | Grpc::ClosesTheSocket) {
        std::thread::sleep(Duration::from_secs(600));
    }
    socket.set_nonblocking(true).unwrap();
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    executor.block_on(async {
        let socket = tokio::net::UnixStream::from_std(socket).unwrap();
        let bad = Bad {
            how,
            frames: Arc::default(),
        };
        serve_socket(socket, Arc::new(bad), std::future::pending()).await;
    });
    std::process::exit(0)
}

impl Bad {
    /// What it says once it is to start.
    fn begin(&self, answers: &Answers) {
        let piece = |frames: Vec<u8>| {
            Bytes::from(
                Piece {
                    frames: frames.into(),
                }
                .encode_to_vec(),
            )
        };
        let said = match self.how {
            Grpc::SendsAnEmptyPiece => Ok(Bytes::new()),
            Grpc::SendsAHugePiece => Ok(piece(vec![0; 8 << 20])),
            Grpc::SendsNoPiece => Ok(Bytes::from_static(b"\xff\xff\xff")),
            Grpc::SendsGarbage => Ok(piece(vec![0xff; 64])),
            Grpc::EndsTheFrames => {
                *self.frames.lock().unwrap() = None;
                return;
            }
            Grpc::FailsTheFrames => Err(Status::data_loss("the dog ate it")),
            _ => Ok(piece(frame(Kind::Ready, 0, &[]))),
        };
        answers.send(said).unwrap();
    }

    fn take(&self, received: &Frame) {
        let answers = self.frames.lock().unwrap().clone();
        let Some(answers) = answers else { return };
        match received.kind {
            Kind::Start => self.begin(&answers),
            Kind::Stop => std::process::exit(0),
            _ => {}
        }
    }

    fn send(&self, kind: Kind, id: u64, body: &[u8]) {
        let frames = frame(kind, id, body).into();
        let piece = Piece { frames }.encode_to_vec().into();
        let answers = self.frames.lock().unwrap().clone().unwrap();
        answers.send(Ok(piece)).unwrap();
    }

    fn open(
        &self,
        mut messages: BoxStream<'static, Result<Bytes, Status>>,
    ) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
        let (answers, answered) = mpsc::unbounded_channel();
        *self.frames.lock().unwrap() = Some(answers);
        let this = self.clone();
        tokio::spawn(async move {
            let mut decoder = Decoder::new(u32::MAX);
            while let Some(Ok(message)) = messages.next().await {
                decoder.push(&Piece::decode(message).unwrap().frames);
                while let Some(frame) = decoder.next().unwrap() {
                    if frame.kind.uses_lane_credit() {
                        panic!("a call came as a frame: {:?}", frame.kind);
                    }
                    this.take(&frame);
                }
            }
            // The rule: the end of the lane is the end of the plugin.
            std::process::exit(0);
        });
        stream::unfold(answered, |mut answered| async move {
            let next = answered.recv().await?;
            Some((next, answered))
        })
    }
}

impl Service for Bad {
    fn shape(&self, method: &str) -> Option<Shape> {
        match method {
            transport::FRAMES if self.how == Grpc::HasNoFrames => None,
            transport::FRAMES => Some(Shape::Streaming),
            _ => Some(Shape::Unary),
        }
    }

    /// `Do` does what its payload says.
    fn call<'a>(&'a self, invoked: Invoked<'a>, payload: Bytes) -> BoxFuture<'a, Result<Bytes, Status>> {
        Box::pin(async move {
            let id: u64 = invoked
                .metadata
                .get(transport::CALL_ID)
                .unwrap()
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            match &*payload {
                b"id" => Ok(id.to_string().into()),
                // Its own slot is freed by nobody else.
                b"frame too" => {
                    self.send(Kind::End, id, &[]);
                    std::future::pending().await
                }
                b"other frame" => {
                    self.send(Kind::End, id + 1000, &[]);
                    std::future::pending().await
                }
                b"large" => Ok(vec![b'a'; 8 << 20].into()),
                b"exit" => std::process::exit(7),
                b"hang" => std::future::pending().await,
                _ => Ok(payload),
            }
        })
    }

    fn stream<'a>(
        &'a self,
        invoked: Invoked<'a>,
        messages: BoxStream<'static, Result<Bytes, Status>>,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes, Status>>, Status>> {
        assert_eq!(invoked.method, transport::FRAMES);
        let answers = self.open(messages).boxed();
        Box::pin(async move { Ok(answers) })
    }
}

fn frame(kind: Kind, id: u64, body: &[u8]) -> Vec<u8> {
    let mut frame = BytesMut::from(&frame::header(kind, id, body.len() as u32)[..]);
    frame.extend_from_slice(body);
    frame.to_vec()
}
