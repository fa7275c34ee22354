//! The commands, carried out by calls to the services.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::net::IpAddr;
use core::time::Duration;

use ipc::client::CallError;
use ipc::interface::network::{self, NetworkClient, NetworkError};
use ipc::interface::service::ConnectError;
use ipc::interface::supervisor::{PowerAction, SupervisorClient, SupervisorError, TaskStatus};
use runtime::service::{Session, connect_to};
use runtime::start::supervisor;
use runtime::{Deadline, Kernel, clock};
use shell::command::Command;
use shell::{report, text};

/// The network stack's name in the manifest.
const NETWORK: &str = "netstack";
/// How long an answer may take that needs nobody outside.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the system may take to stop.
const STOPPING: Duration = Duration::from_secs(10);
/// How often a host is asked.
const PINGS: u32 = 3;
/// Bytes of an echo request.
const PING_BYTES: u16 = 56;
/// How long its answer may take, in milliseconds.
const PING_TIMEOUT_MS: u32 = 2_000;

/// What the commands need: the sessions.
#[derive(Debug)]
pub(crate) struct Commands {
    supervisor: SupervisorClient<Kernel>,
    network: Option<Session>,
}

/// Where a command's text goes.
type Out<'a> = &'a mut dyn FnMut(&str);

impl Commands {
    /// Connects nothing yet: a service is connected to by the first command that needs it.
    pub(crate) fn new() -> Self {
        Self {
            supervisor: SupervisorClient::new(Kernel, supervisor()),
            network: None,
        }
    }

    /// Carries a command out and writes what there is to say.
    pub(crate) fn run(&mut self, command: Command<'_>, out: Out<'_>) {
        let result = match command {
            Command::Help => Ok(report::help()),
            Command::Info => self.info(),
            Command::Tasks => self.tasks(),
            Command::Memory => self.memory(),
            Command::Uptime => Ok(format!("{}\r\n", text::duration(clock::now()))),
            Command::Date => self.date(),
            Command::Network => self.net(),
            Command::Ping(host) => self.ping(host, out),
            Command::Kill(task) => self.kill(task),
            Command::Halt => self.power(PowerAction::Halt),
            Command::Reboot => self.power(PowerAction::Reboot),
        };
        match result {
            Ok(text) => out(&text),
            Err(text) => out(&format!("error: {text}\r\n")),
        }
    }

    fn info(&self) -> Result<String, String> {
        let system = self.supervisor.system(soon()).map_err(said)?;
        let time = self.supervisor.time(soon()).map_err(said)?;
        Ok(report::system(&system, &time))
    }

    fn tasks(&self) -> Result<String, String> {
        let mut list: Vec<TaskStatus> = Vec::new();
        loop {
            let first = u16::try_from(list.len()).unwrap_or(u16::MAX);
            let part = self.supervisor.tasks(soon(), first).map_err(said)?;
            let count = part.tasks.len();
            list.extend(part.tasks);
            if count == 0 || list.len() >= usize::from(part.total) {
                return Ok(report::tasks(&list));
            }
        }
    }

    fn memory(&self) -> Result<String, String> {
        let system = self.supervisor.system(soon()).map_err(said)?;
        Ok(report::memory(&system.counters))
    }

    fn date(&self) -> Result<String, String> {
        let time = self.supervisor.time(soon()).map_err(said)?;
        Ok(report::time(&time))
    }

    fn kill(&self, task: &str) -> Result<String, String> {
        let killed: Result<(), CallError<SupervisorError>> = self.supervisor.kill(soon(), task);
        killed.map_err(said)?;
        Ok(format!("{task} is killed\r\n"))
    }

    /// The shell is the first that is stopped: no prompt comes before that.
    fn power(&self, action: PowerAction) -> Result<String, String> {
        self.supervisor.power(soon(), action).map_err(said)?;
        clock::sleep(STOPPING);
        Err(String::from("the system does not stop"))
    }

    /// The network stack's stub, of a new session where there is none.
    fn network(&mut self) -> Result<NetworkClient<Kernel>, String> {
        if self.network.is_none() {
            let session: Result<_, CallError<ConnectError>> =
                connect_to(NETWORK, network::NUMBER, soon());
            self.network = Some(session.map_err(said)?);
        }
        let session = self.network.as_ref().map(Session::handle);
        session
            .map(|session| NetworkClient::new(Kernel, session))
            .ok_or_else(|| String::from("there is no network stack"))
    }

    /// Tells a network call's error, and forgets the session if it died: the next command connects
    /// again.
    fn network_failed(&mut self, error: &CallError<NetworkError>) -> String {
        if error.is_disconnected() {
            self.network = None;
        }
        error.to_string()
    }

    fn net(&mut self) -> Result<String, String> {
        let info = self.network()?.info(soon());
        info.map(|info| report::network(&info))
            .map_err(|error| self.network_failed(&error))
    }

    /// Finds the host's address.
    fn resolve(&mut self, host: &str) -> Result<IpAddr, String> {
        if let Ok(address) = host.parse() {
            return Ok(address);
        }
        let addresses = self
            .network()?
            .resolve(clock::after(4 * PATIENCE), host)
            .map_err(|error| self.network_failed(&error))?;
        addresses
            .first()
            .copied()
            .ok_or_else(|| NetworkError::NoSuchHost.to_string())
    }

    fn ping(&mut self, host: &str, out: Out<'_>) -> Result<String, String> {
        let address = self.resolve(host)?;
        for number in 0..PINGS {
            if number > 0 {
                clock::sleep(Duration::from_millis(200));
            }
            let deadline = clock::after(PATIENCE);
            let reply = self
                .network()?
                .ping(deadline, address, PING_BYTES, PING_TIMEOUT_MS)
                .map_err(|error| self.network_failed(&error))?;
            out(&report::ping(&reply));
        }
        Ok(String::new())
    }
}

fn soon() -> Deadline {
    clock::after(PATIENCE)
}

/// An error's sentence.
fn said<E: Display>(error: CallError<E>) -> String {
    error.to_string()
}
