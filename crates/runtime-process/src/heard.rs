//! What is heard of a plugin's process besides its lane: how it ended, and what it was denied.

use std::{
    io,
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
};

use mortise_jail::{Denial, Event, Events, Exit};
use mortise_runtime::{Denied, Enclosure, EndCause, HostServices, Layer};
use tokio::io::{Interest, unix::AsyncFd};

/// How the plugin's own process ended, once that was heard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending(Arc<Mutex<Option<Exit>>>);

impl Ending {
    fn set(&self, exit: Exit) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
    }

    /// The cause, from what was heard or else from the status of the process that was waited for.
    pub(crate) fn cause(&self, status: Option<ExitStatus>) -> EndCause {
        use std::os::unix::process::ExitStatusExt as _;
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (heard, status.map(|it| (it.code(), it.signal()))) {
            (Some(Exit::Code(code)), _) | (None, Some((Some(code), _))) => EndCause::Exited(code),
            (Some(Exit::Signal(signal)), _) | (None, Some((None, Some(signal)))) => {
                EndCause::Signalled(signal)
            }
            // The embedding program reaps every child; its status is lost.
            (None, _) => EndCause::Exited(-1),
        }
    }
}

/// Listens until there is nothing more to be heard, which is after the process has ended.
pub(crate) async fn listen(
    events: Events,
    ending: Ending,
    services: Arc<dyn HostServices>,
) -> io::Result<()> {
    #[allow(
        deprecated,
        reason = "its replacement is unsafe for types that may lie about their descriptor; this one does not"
    )]
    let events = AsyncFd::with_interest(events, Interest::READABLE)?;
    loop {
        let mut ready = events.readable().await?;
        match ready.try_io(|events| events.get_ref().next_event()) {
            Ok(Ok(Some(Event::Exited(exit)))) => ending.set(exit),
            Ok(Ok(Some(Event::Denied(denial)))) => tell(&*services, &denial),
            Ok(Ok(Some(Event::Suppressed(count)))) => services.denials_suppressed(count.into()),
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_not_ready) => {}
        }
    }
}

fn tell(services: &dyn HostServices, denial: &Denial) {
    services.denied(Denied {
        capability: denial.capability,
        target: &denial.target,
        how: denial.call,
    });
}

/// The jail's layers in the port's words.
pub(crate) fn enclosure(layers: &mortise_jail::Enclosure) -> Enclosure {
    let layers = layers.iter().map(|(layer, presence)| Layer {
        name: layer.as_str(),
        what: layer.what(),
        present: presence.is_present(),
        detail: presence.detail().to_owned(),
    });
    Enclosure {
        layers: layers.collect(),
    }
}
