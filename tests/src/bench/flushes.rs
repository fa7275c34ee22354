//! How often a guest switched its address space: each write of CR3 makes QEMU's translator flush its table of
//! translated addresses, and it counts that. In a guest that runs steadily nothing else does.

use anyhow::{Context, Result};

use crate::qmp::Qmp;

/// The tables of a processor that one flush is for: QEMU 7.2.22 counted 96,552 for 12,066 writes of CR3, which
/// the guest counted itself.
const TABLES: u64 = 8;

/// How often the translator has flushed everything so far, on all processors.
pub(super) fn count(qmp: &mut Qmp) -> Result<u64> {
    read(&qmp.monitor("info jit")?)
}

/// Reads what `info jit` says. A flush that met entries in all tables is counted once, as full; else each table
/// is, as flushed or as found empty (QEMU 7.2, accel/tcg/cputlb.c, tlb_flush_by_mmuidx_async_work).
fn read(said: &str) -> Result<u64> {
    let number = |name: &str| -> Result<u64> {
        let rest = said.lines().find_map(|line| line.trim().strip_prefix(name));
        let rest = rest.with_context(|| format!("QEMU does not count `{name}`: {said}"))?;
        Ok(rest.trim().parse()?)
    };
    let tables = number("TLB partial flushes")? + number("TLB elided flushes")?;
    Ok(number("TLB full flushes")? + tables / TABLES)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn flushes_of_some_tables_are_joined() {
        let said = "Translation buffer state:\r\nTB count  100\r\n\r\nStatistics:\r\n\
                    TLB full flushes    3\r\nTLB partial flushes 20\r\nTLB elided flushes  28\r\n";
        assert_eq!(read(said).unwrap(), 9);
        assert!(read("TLB full flushes    3\n").is_err());
    }
}
