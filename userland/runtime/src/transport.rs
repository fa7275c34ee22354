//! The transport of all stubs: system calls.

use crate::{endpoint, handle};
use ipc::client::{Request, Transport, TransportError};
use ipc::codec::CodecError;
use ipc::{Handle, Label};

/// Carries the stubs' calls through the kernel: `ConsoleClient::new(Kernel, session)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Transport for Kernel {
    fn call<R>(
        &self,
        request: Request<'_>,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, CodecError>,
        read: impl FnOnce(Label, &[u8], &[Handle]) -> R,
    ) -> Result<R, TransportError> {
        endpoint::call(request, fill, read)
    }

    fn close(&self, handle: Handle) {
        handle::close(handle);
    }
}
