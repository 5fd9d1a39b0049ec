//! Why Redis did not do it: the one table from fred's errors and Redis' replies to [`Trouble`].
//!
//! What matters is whether something may have happened. An error *reply* says that the command had
//! no effect, and the connection is as good as before. Everything else says that nobody knows, and
//! then the connection is not used again.
//!
//! Messages hold no key and no value: of a reply only what follows a code known to quote neither.

use std::fmt;

use fred::error::{Error as FredError, ErrorKind};

/// Longest part of a reply that is shown.
const SHOWN_CHARS_MAX: usize = 120;
/// How fred says that a node wants the command to go to another one. It says so before it has sent
/// the command again (`max_redirections` is 0), so the command had no effect.
const REDIRECTED: &str = "Too many redirections.";

/// Why Redis did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The connection is lost or an answer did not come in time: whether a write happened is
    /// unknown, and this tier answers nothing any more.
    Lost,
    /// Redis has no memory left for it. It had no effect.
    OutOfMemory,
    /// Redis takes no writes now. It had no effect.
    ReadOnly,
    /// Redis is busy with itself: loading, moving slots, running a script. It had no effect.
    NotReady,
    /// Redis does not let us. It had no effect.
    Denied,
    /// Another error, or a reply of another shape than expected.
    Unexpected,
    /// Our own limit of commands in flight. Nothing was sent.
    Overloaded,
}

/// A fault of the shared tier. Never holds a key or a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedError {
    /// What sort it is.
    pub trouble: Trouble,
    message: String,
    redirected: bool,
}

impl SharedError {
    /// An error of a sort with a sentence about it.
    pub fn new(trouble: Trouble, message: impl Into<String>) -> Self {
        Self {
            trouble,
            message: message.into(),
            redirected: false,
        }
    }

    /// The same, of a connection that is no more.
    pub(super) fn of_the_end(self) -> Self {
        Self {
            trouble: Trouble::Lost,
            ..self
        }
    }

    /// Whether another node of the Cluster is to be asked; the command had no effect.
    pub(super) fn is_redirected(&self) -> bool {
        self.redirected
    }

    /// The sentence without what sort it is.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SharedError {}

/// A reply that is not what the command replies with.
pub(super) fn unexpected(what: &str) -> SharedError {
    let message = format!("Redis replied to {what} with something else than it should");
    SharedError::new(Trouble::Unexpected, message)
}

/// The table: what an error of fred, a reply of Redis included, means for us.
pub(super) fn of_fred(error: FredError) -> SharedError {
    if let Some(code) = reply_code(error.details()) {
        return of_reply(code, error.details());
    }
    let lost = |message: &str| SharedError::new(Trouble::Lost, message);
    match error.kind() {
        // fred's queue is full: the commands of callers who have gone are still in it.
        ErrorKind::Backpressure => {
            SharedError::new(Trouble::Overloaded, "too many commands wait for Redis")
        }
        ErrorKind::Routing if error.details() == REDIRECTED => redirected(),
        // A value that could be read as a redirection and is none: fred's, not Redis' fault.
        ErrorKind::Parse | ErrorKind::InvalidArgument => unexpected("a command"),
        // The text is the operating system's: refused, reset, not found, certificate.
        ErrorKind::IO | ErrorKind::Tls => lost(&format!(
            "the connection to Redis is lost or could not be made: {}",
            shown(error.details())
        )),
        ErrorKind::Timeout => lost("Redis did not answer in time"),
        // The text may quote what came instead.
        ErrorKind::Protocol => lost("what Redis sent is not its protocol"),
        // fred's task has ended, has dropped the command, or does not know where to send it.
        _ => lost("the connection to Redis is lost"),
    }
}

/// The same for a reply of which nothing but its code is known.
pub(super) fn of_code(code: &str) -> SharedError {
    match code {
        "MOVED" | "ASK" => redirected(),
        code => of_reply(code, code),
    }
}

fn redirected() -> SharedError {
    SharedError {
        redirected: true,
        ..SharedError::new(Trouble::NotReady, "Redis Cluster is moving this slot")
    }
}

/// The code a reply begins with: Redis' error codes are upper case, fred's own words are not.
fn reply_code(text: &str) -> Option<&str> {
    let code = text.split([' ', ':']).next().unwrap_or_default();
    let upper = |code: &str| code.len() > 1 && code.bytes().all(|b| b.is_ascii_uppercase());
    upper(code).then(|| inner_code(text).unwrap_or(code))
}

/// The code inside the error of a script; Redis 6.2 puts its own words before it.
fn inner_code(text: &str) -> Option<&str> {
    let inside = text.strip_prefix("ERR Error running script")?;
    const CODES: [&str; 4] = ["OOM", "READONLY", "MISCONF", "NOREPLICAS"];
    let mut words = inside.split([' ', '-', ':']);
    words.find(|word| CODES.contains(word))
}

fn of_reply(code: &str, text: &str) -> SharedError {
    let told = |trouble, advice: &str| {
        SharedError::new(trouble, format!("Redis says {:?}; {advice}", shown(text)))
    };
    match code {
        "OOM" => told(
            Trouble::OutOfMemory,
            "raise maxmemory or choose another maxmemory-policy",
        ),
        // A replica.
        "READONLY" => told(Trouble::ReadOnly, "the URL must lead to the master"),
        // Redis cannot write its snapshot, or too few replicas are there.
        "MISCONF" | "NOREPLICAS" => told(Trouble::ReadOnly, "look at Redis' own log"),
        // Starting, a replica without its master, a slot half moved, a script that runs long.
        "LOADING" | "MASTERDOWN" | "TRYAGAIN" | "BUSY" => {
            told(Trouble::NotReady, "it will pass or needs Redis' operator")
        }
        // fred drops the connection of everybody when one command is told so, and gives this text
        // to all of them, whatever has become of them.
        "CLUSTERDOWN" => told(Trouble::Lost, "not all slots are served"),
        "NOAUTH" | "WRONGPASS" => told(Trouble::Denied, "check user and password"),
        "NOPERM" => told(Trouble::Denied, "check the user's ACL"),
        // Loaded by whoever gets this, never shown.
        "NOSCRIPT" => SharedError::new(Trouble::Unexpected, NO_SCRIPT),
        "WRONGTYPE" => SharedError::new(Trouble::Unexpected, WRONG_TYPE),
        "ERR" if text.contains("cluster support disabled") => SharedError::new(
            Trouble::Unexpected,
            "this Redis is no Cluster; its URL begins with redis:// or rediss://",
        ),
        // May quote arguments.
        code => {
            let message = format!("Redis refused a command ({code}); its version may be too old");
            SharedError::new(Trouble::Unexpected, message)
        }
    }
}

const NO_SCRIPT: &str = "Redis does not know the script";
const WRONG_TYPE: &str = "what is under this key in Redis is not a string";

impl SharedError {
    /// Whether a script must be loaded first.
    pub(super) fn is_no_script(&self) -> bool {
        self.message == NO_SCRIPT
    }

    /// Whether the key holds a list, a hash or another thing that is no entry.
    pub(super) fn is_wrong_type(&self) -> bool {
        self.message == WRONG_TYPE
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: ErrorKind, text: &'static str) -> SharedError {
        of_fred(FredError::new(kind, text))
    }

    #[test]
    fn every_reply_has_its_trouble() {
        use Trouble::{Denied, Lost, NotReady, OutOfMemory, ReadOnly, Unexpected};
        let table = [
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                OutOfMemory,
            ),
            (
                "READONLY You can't write against a read only replica.",
                ReadOnly,
            ),
            (
                "MISCONF Redis is configured to save RDB snapshots, but",
                ReadOnly,
            ),
            ("NOREPLICAS Not enough good replicas to write.", ReadOnly),
            ("LOADING Redis is loading the dataset in memory", NotReady),
            ("MASTERDOWN Link with MASTER is down", NotReady),
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                NotReady,
            ),
            ("BUSY Redis is busy running a script.", NotReady),
            ("CLUSTERDOWN The cluster is down", Lost),
            ("NOAUTH Authentication required.", Denied),
            ("WRONGPASS invalid username-password pair", Denied),
            (
                "NOPERM this user has no permissions to run the 'get' command",
                Denied,
            ),
            ("WRONGTYPE Operation against a key", Unexpected),
            ("NOSCRIPT No matching script.", Unexpected),
            ("ERR syntax error", Unexpected),
            (
                "CROSSSLOT Keys in request don't hash to the same slot",
                Unexpected,
            ),
        ];
        for (text, trouble) in table {
            // Whatever kind fred makes of it.
            for kind in [ErrorKind::Unknown, ErrorKind::Auth, ErrorKind::Cluster] {
                assert_eq!(told(kind, text).trouble, trouble, "{text}");
            }
        }
    }

    #[test]
    fn the_error_inside_a_script_counts() {
        let text = "ERR Error running script (call to f_1): @user_script:4: \
                    -OOM command not allowed when used memory > 'maxmemory'.";
        assert_eq!(told(ErrorKind::Unknown, text).trouble, Trouble::OutOfMemory);
        let text = "ERR Error running script (call to f_1): @user_script:4: \
                    -READONLY You can't write against a read only replica.";
        assert_eq!(told(ErrorKind::Unknown, text).trouble, Trouble::ReadOnly);
    }

    #[test]
    fn what_is_no_reply_means_lost() {
        for (kind, text) in [
            (ErrorKind::IO, "Connection closed."),
            (ErrorKind::Tls, "invalid peer certificate"),
            (ErrorKind::Timeout, "Request timed out."),
            (ErrorKind::Canceled, "Canceled."),
            (ErrorKind::Protocol, "Could not parse frame"),
            (ErrorKind::Unknown, "Client is not initialized."),
            (ErrorKind::Unknown, "Too many failed write attempts."),
            (ErrorKind::Unknown, "Failed to route command."),
            (ErrorKind::Unknown, "channel closed"),
            (ErrorKind::Config, "Invalid client configuration."),
        ] {
            assert_eq!(told(kind, text).trouble, Trouble::Lost, "{text}");
        }
    }

    #[test]
    fn what_was_not_sent_is_known() {
        let full = told(ErrorKind::Backpressure, "Max in-flight commands reached.");
        assert_eq!(full.trouble, Trouble::Overloaded);
        let moved = told(ErrorKind::Routing, REDIRECTED);
        assert_eq!(
            (moved.trouble, moved.is_redirected()),
            (Trouble::NotReady, true)
        );
    }

    #[test]
    fn messages_quote_no_arguments() {
        let text = "ERR unknown command 'X', with args beginning with: 'secret-key'";
        assert!(
            !told(ErrorKind::Unknown, text)
                .to_string()
                .contains("secret-key")
        );
        let text = "WRONGTYPE secret-key";
        assert!(
            !told(ErrorKind::Unknown, text)
                .to_string()
                .contains("secret-key")
        );
        let text = "Unexpected byte in secret-key";
        assert!(
            !told(ErrorKind::Protocol, text)
                .to_string()
                .contains("secret-key")
        );
    }
}
