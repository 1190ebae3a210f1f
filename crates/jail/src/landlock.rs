//! Landlock's rights as numbers, and which of them an ABI knows.
//!
//! What an ABI does not know can't be denied by it; [`handled`] asks for all that it knows. Rights on devices' ioctls are never given.

/// Executes a file.
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const MAKE_SOCK: u64 = 1 << 9;
const MAKE_FIFO: u64 = 1 << 10;
const MAKE_SYM: u64 = 1 << 12;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;

/// Rights that make sense for a file that is no directory; the kernel refuses others in a rule about one.
const OF_A_FILE: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE;

/// What is denied unless a rule gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handled {
    pub(crate) files: u64,
    pub(crate) net: u64,
    pub(crate) scoped: u64,
}

/// What may be done below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read.
    Read,
    /// Read and execute.
    Execute,
    /// Read and write; make and remove everything but devices.
    Write,
}

/// Everything that an ABI can deny.
pub(crate) fn handled(abi: i32) -> Handled {
    Handled {
        files: match abi {
            ..=0 => 0,
            1 => (1 << 13) - 1,
            2 => (1 << 14) - 1,
            3 | 4 => (1 << 15) - 1,
            _ => (1 << 16) - 1,
        },
        // Binding and connecting TCP.
        net: if abi >= 4 { 0b11 } else { 0 },
        // Abstract unix sockets and signals.
        scoped: if abi >= 6 { 0b11 } else { 0 },
    }
}

impl Access {
    /// As rights that `handled` knows, for a path that is a directory or not.
    pub(crate) fn rights(self, handled: Handled, is_dir: bool) -> u64 {
        let all = match self {
            Self::Read => READ_FILE | READ_DIR,
            Self::Execute => READ_FILE | READ_DIR | EXECUTE,
            Self::Write => {
                READ_FILE
                    | READ_DIR
                    | WRITE_FILE
                    | TRUNCATE
                    | REMOVE_DIR
                    | REMOVE_FILE
                    | MAKE_DIR
                    | MAKE_REG
                    | MAKE_SOCK
                    | MAKE_FIFO
                    | MAKE_SYM
                    | REFER
            }
        };
        all & handled.files & if is_dir { u64::MAX } else { OF_A_FILE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abi_is_asked_for_what_it_knows_and_no_more() {
        assert_eq!(
            handled(0),
            Handled {
                files: 0,
                net: 0,
                scoped: 0
            }
        );
        assert_eq!(handled(1).files, 0x1fff);
        assert_eq!(handled(3).files, 0x7fff);
        assert_eq!((handled(4).net, handled(4).scoped), (3, 0));
        assert_eq!((handled(5).files, handled(6).scoped), (0xffff, 3));
        assert_eq!(
            handled(7),
            handled(99),
            "what is newer is not used before it is known here"
        );
    }

    #[test]
    fn no_rule_gives_devices_or_what_the_abi_does_not_know() {
        const DEVICES: u64 = 1 << 6 | 1 << 11 | 1 << 15;
        for abi in 0..9 {
            for access in [Access::Read, Access::Execute, Access::Write] {
                for is_dir in [false, true] {
                    let rights = access.rights(handled(abi), is_dir);
                    assert_eq!(rights & DEVICES, 0);
                    assert_eq!(rights & !handled(abi).files, 0);
                }
            }
        }
        assert_eq!(
            Access::Write.rights(handled(6), true) & EXECUTE,
            0,
            "what it writes it can't execute"
        );
        assert_eq!(Access::Execute.rights(handled(6), false), READ_FILE | EXECUTE);
    }
}
