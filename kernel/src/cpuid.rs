//! What this machine's processors can do, asked once at boot (Intel SDM volume 2A, CPUID; AMD APM
//! volume 3, appendix E). The processors of a virtual machine are alike.

use kernel_core::sync::{AtomicU32, Ordering};
use raw_cpuid::CpuId;

/// Features that the kernel uses where they are there, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Feature {
    /// RDFSBASE and its siblings.
    FsGsBase = 1 << 0,
    /// Supervisor mode access prevention; CLAC.
    Smap = 1 << 1,
    /// Supervisor mode execution prevention.
    Smep = 1 << 2,
    /// User mode instruction prevention.
    Umip = 1 << 3,
    /// XSAVE and extended control registers.
    Xsave = 1 << 4,
    /// XSAVEOPT.
    XsaveOpt = 1 << 5,
    /// x2APIC mode.
    X2Apic = 1 << 6,
    /// The local APIC timer's TSC deadline mode.
    TscDeadline = 1 << 7,
    /// 1 GiB pages.
    GiganticPages = 1 << 8,
    /// RDTSCP and the TSC_AUX register.
    Rdtscp = 1 << 9,
    /// Process-context identifiers, and INVPCID to flush what bears one.
    Pcid = 1 << 10,
}

static FEATURES: AtomicU32 = AtomicU32::new(0);

/// Whether the machine has a feature.
#[inline(always)]
pub(crate) fn has(feature: Feature) -> bool {
    has_bit(feature as u32)
}

/// Whether the machine has the feature whose discriminant this is.
pub(crate) fn has_bit(feature: u32) -> bool {
    FEATURES.load(Ordering::Relaxed) & feature != 0
}

/// Does without a feature that does not work here. To be called before another CPU starts.
pub(crate) fn forget(feature: Feature) {
    FEATURES.fetch_and(!(feature as u32), Ordering::Relaxed);
}

/// Asks the processor. To be called once, before anything asks [`has`].
///
/// # Errors
/// What the kernel cannot do without and the processor lacks.
pub(crate) fn detect() -> Result<(), &'static str> {
    let cpuid = CpuId::new();
    let basic = cpuid.get_feature_info();
    let structured = cpuid.get_extended_feature_info();
    let extended = cpuid.get_extended_processor_and_feature_identifiers();
    let state = cpuid.get_extended_state_info();
    let mut bits = 0;
    let mut note =
        |feature: Feature, present: bool| bits |= if present { feature as u32 } else { 0 };
    if let Some(leaf) = &structured {
        note(Feature::FsGsBase, leaf.has_fsgsbase());
        note(Feature::Smap, leaf.has_smap());
        note(Feature::Smep, leaf.has_smep());
        note(Feature::Umip, leaf.has_umip());
    }
    if let Some(leaf) = &basic {
        note(Feature::Xsave, leaf.has_xsave());
        note(Feature::X2Apic, leaf.has_x2apic());
        note(Feature::TscDeadline, leaf.has_tsc_deadline());
    }
    note(
        Feature::Pcid,
        basic.as_ref().is_some_and(|leaf| leaf.has_pcid())
            && structured.as_ref().is_some_and(|leaf| leaf.has_invpcid()),
    );
    if let Some(leaf) = &extended {
        note(Feature::GiganticPages, leaf.has_1gib_pages());
        note(Feature::Rdtscp, leaf.has_rdtscp());
    }
    note(
        Feature::XsaveOpt,
        state.is_some_and(|leaf| leaf.has_xsaveopt()),
    );
    FEATURES.store(bits, Ordering::Relaxed);

    let basic = basic.ok_or("CPUID")?;
    let needed = [
        (basic.has_apic(), "a local APIC"),
        (basic.has_msr(), "model-specific registers"),
        (basic.has_tsc(), "a time stamp counter"),
        (basic.has_pge(), "global pages"),
        (basic.has_pat(), "a page attribute table"),
        (basic.has_fxsave_fxstor() && basic.has_sse2(), "SSE2"),
        (
            extended.is_some_and(|leaf| leaf.has_execute_disable()),
            "no-execute pages",
        ),
    ];
    needed
        .iter()
        .find(|(present, _)| !present)
        .map_or(Ok(()), |(_, name)| Err(*name))
}
