//! A Go plugin in the jail, as a user of its own: the broker reaches both ways all the same, over sockets in the plugin's directory.

use std::{
    ffi::OsString,
    fs::File,
    io::{PipeReader, Read as _},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use mortise_goplugin::{
    AddressPolicy, CallHeaders, ConnectOptions, Connection, Cookie, Handshake, LogEvent, LogParser, Offer,
    PeerCheck, Scanner,
};
use mortise_jail::{Executable, Jailed, Layer, Machine, Policy, Program, User, start};
use prost::Message as _;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    fixture::PATIENCE,
    go,
    messages::{BIDIRECTIONAL, Bidirectional, PING, PongResponse},
    pinger::Pinger,
};

/// The plugin, and what is heard of it.
struct Caged {
    jailed: Jailed,
    handshake: oneshot::Receiver<Handshake>,
    logs: Arc<Mutex<Vec<LogEvent>>>,
}

fn cage(program: &std::path::Path, offer: &Offer, user: u32) -> Caged {
    let mut policy = Policy::new(&offer.directory);
    policy.user = User::Own(user);
    let null = File::open("/dev/null").unwrap();
    let ((out, its_out), (err, its_err)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let arguments = [OsString::from(program)];
    let program = Program {
        executable: Executable::Path(program),
        arguments: &arguments,
        environment: &offer.environment(),
        standard: [null.as_fd(), its_out.as_fd(), its_err.as_fd()],
        inherited: &[],
    };
    let jailed = start(Machine::probe(), &policy, None, &program).unwrap();
    let (tell, handshake) = oneshot::channel();
    std::thread::spawn(move || read_handshake(out, tell));
    let logs = Arc::<Mutex<Vec<LogEvent>>>::default();
    let (mut err, to) = (err, logs.clone());
    std::thread::spawn(move || {
        let (mut parser, mut chunk) = (LogParser::default(), [0; 4096]);
        while let Ok(read @ 1..) = err.read(&mut chunk) {
            parser.push(&chunk[..read], |event| to.lock().unwrap().push(event));
        }
    });
    Caged {
        jailed,
        handshake,
        logs,
    }
}

/// Reads on afterwards: a plugin whose output nobody takes stands still.
fn read_handshake(mut out: PipeReader, tell: oneshot::Sender<Handshake>) {
    let (mut scanner, mut tell, mut chunk) = (Scanner::default(), Some(tell), [0; 4096]);
    while let Ok(read @ 1..) = out.read(&mut chunk) {
        if tell.is_some()
            && let Some((handshake, _)) = scanner.push(&chunk[..read]).unwrap()
        {
            drop(tell.take().map(|it| it.send(handshake)));
        }
    }
}

#[tokio::test]
async fn the_broker_reaches_a_plugin_with_a_user_of_its_own() {
    let Some(program) = go::program("plugins/go-kv") else {
        return;
    };
    let machine = Machine::probe();
    let Some(user) = machine.own_user(7).filter(|_| machine.layers().has(Layer::User)) else {
        println!(
            "skipped: needs the layer user: {}",
            machine.layers().why_not(Layer::User).unwrap_or_default()
        );
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(user), Some(user)).unwrap();
    let offer = Offer {
        cookie: Cookie::parse("BASIC_PLUGIN=hello").unwrap(),
        versions: vec![1],
        certificate_pem: None,
        multiplex: false,
        directory: dir.path().to_owned(),
    };
    let caged = cage(&program, &offer, user);
    let pid = caged.jailed.plugin().unwrap().as_raw_nonzero().get();
    let handshake = timeout(PATIENCE, caged.handshake)
        .await
        .unwrap()
        .unwrap_or_else(|_| panic!("no handshake: {:?}", caged.logs.lock().unwrap()));
    let runs_as = std::fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    assert_eq!(runs_as, user);
    let agreed = offer.accept(handshake).unwrap();
    let options = ConnectOptions {
        policy: AddressPolicy {
            directory: Some(offer.directory.clone()),
            peer: Some(PeerCheck::group(pid.cast_unsigned())),
            tcp: false,
        },
        identity: None,
        directory: offer.directory.clone(),
        output: None,
    };
    let connection = timeout(PATIENCE, Connection::open(&agreed, options))
        .await
        .unwrap()
        .unwrap();
    let broker = connection.broker();
    let id = broker.next_id();
    broker
        .serve(id, Arc::new(Pinger("pong from outside the jail")))
        .await
        .unwrap();
    // The plugin dials the host's socket, which root made, and says what it heard; then the host dials the plugin's.
    let (method, headers) = (format!("/{BIDIRECTIONAL}"), CallHeaders::default());
    let call = connection.call(&method, &headers, Bidirectional { id }.encode_to_vec().into());
    let reply = timeout(PATIENCE, call).await.unwrap().unwrap();
    let theirs = Bidirectional::decode(reply).unwrap().id;
    let heard = || {
        let logs = caged.logs.lock().unwrap();
        logs.iter()
            .flat_map(|it| &it.fields)
            .any(|(name, value)| name == "msg" && value == "pong from outside the jail")
    };
    timeout(PATIENCE, async {
        while !heard() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let plugin = broker.dial(theirs).await.unwrap();
    let pong = plugin
        .call(&format!("/{PING}"), &CallHeaders::default(), Bytes::new())
        .await
        .unwrap();
    assert_eq!(PongResponse::decode(pong).unwrap().msg, "pong from the plugin");
}
