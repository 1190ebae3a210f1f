//! Why a descriptor set is not a contract, and why a name is not a method of one.

/// Why bytes are not a usable contract.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContractError {
    /// The bytes are no `FileDescriptorSet`, or one whose parts do not fit together.
    #[error("the contract's descriptor set cannot be read: {reason}; build it again with `mortise build`")]
    Malformed {
        /// What the decoder or the linker says.
        reason: String,
    },
    /// The set is larger than a host is willing to link.
    #[error(
        "the contract's descriptor set has {actual} {what}, and {max} is the most a host accepts; split the contract"
    )]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        actual: usize,
        /// How many there may be.
        max: usize,
    },
    /// A service that the manifest provides is not in the set.
    #[error(
        "`provides` names `{service}`, and the contract declares {}; correct plugin.toml or add the .proto file",
        list(known)
    )]
    UnknownService {
        /// The name in `provides`.
        service: String,
        /// The services that the set declares.
        known: Vec<String>,
    },
    /// An option of a method or a field does not mean anything.
    #[error("option `{option}` of `{path}` is `{value}`, and {expected}")]
    BadOption {
        /// `mortise.replaces`, say.
        option: &'static str,
        /// What carries it.
        path: String,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// Why a bare method name does not select a method.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No provided service has such a method.
    #[error("no method is named `{name}`; there is {}", list(known))]
    Unknown {
        /// What was asked for.
        name: String,
        /// Every provided method, as `package.Service/Method`.
        known: Vec<String>,
    },
    /// More than one provided service has such a method.
    #[error("method name `{name}` is ambiguous; say {}", list(candidates))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The methods it may mean, as `package.Service/Method`.
        candidates: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        [only] => format!("`{only}`"),
        [first @ .., last] => format!("`{}` or `{last}`", first.join("`, `")),
    }
}
