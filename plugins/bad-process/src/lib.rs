//! A hostile process: tries to get out of its jail, one way per call, and says what came of it.
//!
//! It is honest about its attempts: what it reports as an errno is what the kernel answered, and a success is tried to the end, so that a jail with a hole
//! shows. The tests run the same attempts without a jail to see that they can succeed.

pub mod attempt;

mod calls;
mod files;
mod floods;
mod sockets;

use attempt::Attempt;
use mortise_sdk::prelude::*;

mortise_sdk::contract!();
use contract::*;

/// What came of an attempt: what it got, or the errno.
type Outcome = std::result::Result<String, i32>;

#[derive(Default)]
struct Bad;

#[mortise_sdk::plugin]
impl Hostile for Bad {
    fn r#try(&self, _: &Cx, request: TryRequest) -> Result<TryReply> {
        let attempt = Attempt::parse(&request.attempt).ok_or_else(|| {
            Status::new(
                Code::InvalidArgument,
                format!("no attempt is called {}", request.attempt),
            )
        })?;
        let outcome = make(attempt, &request.argument);
        Ok(match outcome {
            Ok(detail) => TryReply { errno: 0, detail },
            Err(errno) => TryReply {
                errno,
                detail: std::io::Error::from_raw_os_error(errno).to_string(),
            },
        })
    }

    fn wait(&self, _: &Cx, _: WaitRequest) -> Result<WaitReply> {
        hang()
    }

    fn wait_safely(&self, _: &Cx, _: WaitRequest) -> Result<WaitReply> {
        hang()
    }

    fn work(&self, _: &Cx, _: WorkRequest) -> Result<WorkReply> {
        std::thread::spawn(|| {
            loop {
                std::hint::black_box(0);
            }
        });
        Ok(WorkReply {})
    }
}

fn hang() -> ! {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

fn make(attempt: Attempt, argument: &str) -> Outcome {
    use Attempt as A;
    match attempt {
        A::Nothing => Ok("nothing".to_owned()),
        A::ReadShadow => files::read("/etc/shadow"),
        A::ReadByDots => files::read("../../../../../../../../etc/shadow"),
        A::ReadByLink => files::by_link("/etc/shadow"),
        A::ReadByHardLink => files::by_hard_link("/etc/shadow"),
        A::ReadByProcRoot => files::read("/proc/1/root/etc/shadow"),
        A::ReadByNewMountApi => calls::open_tree(),
        A::ReadByHandle => calls::open_by_handle(),
        A::ReadOutside => files::read(argument),
        A::ReadHostEnviron => files::read(&format!("/proc/{argument}/environ")),
        A::ReadLauncherEnviron => files::read("/proc/1/environ"),
        A::ReadHostMemory => files::read_some(&format!("/proc/{argument}/mem")),
        A::ReadKernelMemory => files::read_some("/proc/kcore"),
        A::ReadPhysicalMemory => files::read_some("/dev/mem"),
        A::WriteOutside => files::write(argument),
        A::WriteSystem => files::write("/usr/mortise-was-here"),
        A::WriteOwnProgram => files::write_own_program(),
        A::WriteCorePattern => files::append("/proc/sys/kernel/core_pattern"),
        A::WriteSysrq => files::append("/proc/sysrq-trigger"),
        A::MoveOutside => files::move_to(argument),
        A::MakeDevice => calls::make_device(),
        A::ExecuteWritten => files::execute_written(),
        A::ExecuteMemfd => files::execute_memfd(),
        A::PreloadWritten => files::preload_written(),
        A::ConnectMetadata => sockets::connect_inet([169, 254, 169, 254], 80),
        A::ConnectInet6 => sockets::socket(libc::AF_INET6, libc::SOCK_STREAM),
        A::SendDatagram => sockets::socket(libc::AF_INET, libc::SOCK_DGRAM),
        A::RawSocket => sockets::socket_of(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        A::PacketSocket => sockets::socket(libc::AF_PACKET, libc::SOCK_RAW),
        A::NetlinkSocket => sockets::socket(libc::AF_NETLINK, libc::SOCK_RAW),
        A::VsockSocket => sockets::socket(libc::AF_VSOCK, libc::SOCK_STREAM),
        A::AlgSocket => sockets::socket(libc::AF_ALG, libc::SOCK_SEQPACKET),
        A::ConnectUnixOutside => sockets::connect_unix(argument),
        A::ConnectAbstract => sockets::connect_abstract(argument),
        A::ReceiveDescriptor => sockets::connect_unix(argument),
        A::ConnectThroughProxy => sockets::connect_through_proxy(argument),
        A::ConnectPastProxy => sockets::connect_inet([169, 254, 169, 254], 80),
        A::SignalHost => calls::signal(argument),
        A::SignalEverybody => calls::signal_everybody(),
        A::PtraceHost => calls::ptrace(argument),
        A::ReadProcessMemory => calls::read_process(argument),
        A::WriteProcessMemory => calls::write_process(argument),
        A::StealDescriptor => calls::steal_descriptor(argument),
        A::SetUser => calls::set_user(),
        A::RegainCapabilities => calls::regain_capabilities(),
        A::ExecuteSetUser => files::execute_set_user(),
        A::RaiseLimit => calls::raise_limit(),
        A::ForkBomb => floods::forks(),
        A::MemoryBomb => floods::memory(),
        A::MemoryBombOfChildren => floods::memory_of_children(),
        A::DescriptorFlood => floods::descriptors(),
        A::FileFlood => floods::one_file(),
        A::DiskFlood => floods::disk(),
        A::DeepDirectories => floods::deep_directories(),
        A::NamelessFile => floods::nameless_file(),
        A::DenialFlood => floods::denials(),
        other => calls::other(other, argument),
    }
}

/// The result of a system call.
fn check(result: i64) -> std::result::Result<i64, i32> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(-1)
}

fn errno_of(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}
