//! Single operations of the kernel: the cheapest one, time, memory.

use ipc::Error;
use ipc::layout::{LARGE_PAGE_BYTES, PAGE_BYTES};
use runtime::handle::inspect;
use runtime::mapping::Access;
use runtime::{Mapping, Memory};

use crate::counter::{measure as count, report};

pub(crate) fn measure() -> Result<(), Error> {
    let own = runtime::start::own_task();
    let cost = count(|_| inspect(own).map(drop))?;
    report("null_syscall", cost, "instructions");
    let cost = count(|_| {
        core::hint::black_box(runtime::clock::now());
        Ok::<(), Error>(())
    })?;
    report("clock_read", cost, "instructions");
    let memory = Memory::create(PAGE_BYTES)?;
    let cost = count(|_| Mapping::whole(&memory, Access::Write).map(drop))?;
    report("map_unmap_4k", cost, "instructions");
    let memory = Memory::create_contiguous(LARGE_PAGE_BYTES)?;
    let cost = count(|_| Mapping::whole(&memory, Access::Write).map(drop))?;
    report("map_unmap_2m", cost, "instructions");
    Ok(())
}
