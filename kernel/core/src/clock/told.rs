//! What CPUID says about the TSC's rate, the processor's leaves and the hypervisor's. Executing CPUID is
//! the mechanism's: every function here takes it as `leaf -> [EAX, EBX, ECX, EDX]`.

use super::Rate;
use super::source::Answer;

/// What CPUID gives for a leaf, subleaf 0: EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

/// Basic leaves (Intel SDM volume 2A, CPUID): the largest; features; TSC and crystal; frequencies.
const LARGEST: u32 = 0;
const FEATURES: u32 = 1;
const TSC_AND_CRYSTAL: u32 = 0x15;
const FREQUENCIES: u32 = 0x16;
/// Leaf 1, ECX: a hypervisor runs the machine (reserved for that use, AMD APM volume 3, appendix E.3.2).
const HYPERVISOR_PRESENT: u32 = 1 << 31;
/// Extended leaves (AMD APM volume 3, appendix E.4): the largest; power management, EDX: invariant TSC.
const LARGEST_EXTENDED: u32 = 0x8000_0000;
const POWER_MANAGEMENT: u32 = 0x8000_0007;
const INVARIANT_TSC: u32 = 1 << 8;

/// Where a hypervisor's leaves may begin: one that plays two shows the second one's further up (Linux,
/// Documentation/virt/kvm/x86/cpuid.rst; Xen, public/arch-x86/cpuid.h).
const HYPERVISOR_BASES: core::ops::Range<u32> = 0x4000_0000..0x4001_0000;
const HYPERVISOR_STEP: usize = 0x100;
/// From the base: the leaf with the rates, EAX the TSC's in kHz. VMware defined it, KVM's users have it too
/// (QEMU, docs/system/i386/hyperv.rst; Linux, arch/x86/kernel/cpu/vmware.c and kvmclock.c).
const TIMING: u32 = 0x10;
/// Signatures, in EBX, ECX and EDX of the base.
const KVM: &[u8; 12] = b"KVMKVMKVM\0\0\0";
const VMWARE: &[u8; 12] = b"VMwareVMware";

const KILOHERTZ: u64 = 1_000;
const MEGAHERTZ: u64 = 1_000_000;

/// The TSC runs at one rate in all power states.
pub fn is_invariant(cpuid: impl Fn(u32) -> Leaf) -> bool {
    cpuid(LARGEST_EXTENDED)[0] >= POWER_MANAGEMENT
        && cpuid(POWER_MANAGEMENT)[3] & INVARIANT_TSC != 0
}

/// The processor's statement: leaf 0x15, and 0x16 where that does not know the crystal's rate. Sure only
/// where the crystal's is known and the TSC is invariant: the base frequency of leaf 0x16 is what the
/// processor is sold as.
pub fn processor(cpuid: impl Fn(u32) -> Leaf) -> Option<Answer> {
    let largest = cpuid(LARGEST)[0];
    if largest < TSC_AND_CRYSTAL {
        return None;
    }
    let [denominator, numerator, crystal, _] = cpuid(TSC_AND_CRYSTAL);
    if denominator == 0 || numerator == 0 {
        return None;
    }
    if crystal != 0 {
        let hz = u64::from(crystal) * u64::from(numerator) / u64::from(denominator);
        return Some(Answer {
            rate: Rate::stated(hz, 1),
            sure: is_invariant(cpuid),
        });
    }
    // Bits 15 to 0 are the base frequency in MHz.
    let base = (largest >= FREQUENCIES).then(|| cpuid(FREQUENCIES)[0] & 0xffff)?;
    Some(Answer {
        rate: Rate::stated(u64::from(base) * MEGAHERTZ, MEGAHERTZ),
        sure: false,
    })
    .filter(|answer| answer.rate.hz != 0)
}

/// The leaves of one hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hypervisor {
    /// The first.
    pub base: u32,
    /// The last.
    pub largest: u32,
}

/// Looks for the leaves of the hypervisor with a signature. At most 257 times CPUID, which the hypervisor answers
/// itself.
fn find(cpuid: &impl Fn(u32) -> Leaf, signature: &[u8; 12]) -> Option<Hypervisor> {
    if cpuid(FEATURES)[2] & HYPERVISOR_PRESENT == 0 {
        return None;
    }
    HYPERVISOR_BASES.step_by(HYPERVISOR_STEP).find_map(|base| {
        let [largest, words @ ..] = cpuid(base);
        let bytes = words.map(u32::to_le_bytes);
        (bytes.as_flattened() == signature).then_some(Hypervisor { base, largest })
    })
}

/// KVM's leaves. A largest leaf of 0 stands for the one after the base (Linux, cpuid.rst).
pub fn kvm(cpuid: impl Fn(u32) -> Leaf) -> Option<Hypervisor> {
    let mut found = find(&cpuid, KVM)?;
    found.largest = found.largest.max(found.base + 1);
    Some(found)
}

/// The hypervisor's statement, in its leaf for rates.
pub fn hypervisor(cpuid: impl Fn(u32) -> Leaf) -> Option<Answer> {
    let found = kvm(&cpuid).or_else(|| find(&cpuid, VMWARE))?;
    let leaf = found.base + TIMING;
    let khz = (found.largest >= leaf).then(|| cpuid(leaf)[0])?;
    (khz != 0).then(|| Answer {
        rate: Rate::stated(u64::from(khz) * KILOHERTZ, KILOHERTZ),
        sure: true,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Hypervisor, Leaf, hypervisor, is_invariant, kvm, processor};
    use crate::clock::Rate;
    use crate::clock::source::Answer;

    /// A CPUID with these leaves; others are 0.
    pub(in crate::clock) fn table(leaves: &[(u32, Leaf)]) -> impl Fn(u32) -> Leaf {
        move |leaf| {
            let found = leaves.iter().find(|(number, _)| *number == leaf);
            found.map_or([0; 4], |(_, words)| *words)
        }
    }

    fn signed(largest: u32, signature: &[u8; 12]) -> Leaf {
        let word =
            |place: usize| u32::from_le_bytes(signature[place * 4..][..4].try_into().unwrap());
        [largest, word(0), word(1), word(2)]
    }

    pub(in crate::clock) const HYPERVISOR: (u32, Leaf) = (1, [0, 0, 1 << 31, 0]);

    pub(in crate::clock) fn kvm_leaf(largest: u32) -> Leaf {
        signed(largest, b"KVMKVMKVM\0\0\0")
    }

    const INVARIANT: [(u32, Leaf); 2] = [
        (0x8000_0000, [0x8000_0008, 0, 0, 0]),
        (0x8000_0007, [0, 0, 0, 1 << 8]),
    ];

    #[test]
    fn crystal_and_ratio_give_the_rate() {
        // As an Ice Lake server's: 25 MHz * 168 / 2.
        let mut leaves = vec![(0, [0x1b, 0, 0, 0]), (0x15, [2, 168, 25_000_000, 0])];
        let rate = Rate {
            hz: 2_100_000_000,
            error_ppm: 1,
        };
        assert_eq!(
            processor(table(&leaves)),
            Some(Answer { rate, sure: false })
        );
        leaves.extend(INVARIANT);
        assert_eq!(processor(table(&leaves)), Some(Answer { rate, sure: true }));
    }

    #[test]
    fn the_base_frequency_alone_is_not_sure() {
        // As a Skylake's, whose TSC runs at 2,904 MHz.
        let mut leaves = vec![
            (0, [0x16, 0, 0, 0]),
            (0x15, [2, 242, 0, 0]),
            (0x16, [2_900, 3_500, 100, 0]),
        ];
        leaves.extend(INVARIANT);
        let answer = processor(table(&leaves)).unwrap();
        assert_eq!((answer.rate.hz, answer.sure), (2_900_000_000, false));
        assert_eq!(answer.rate.error_ppm, 345);
        leaves[0].1[0] = 0x15;
        assert_eq!(processor(table(&leaves)), None, "leaf 0x16 is not there");
    }

    #[test]
    fn leaves_without_sense_say_nothing() {
        for words in [[0, 168, 25_000_000, 0], [2, 0, 25_000_000, 0], [0; 4]] {
            assert_eq!(
                processor(table(&[(0, [0x16, 0, 0, 0]), (0x15, words)])),
                None
            );
        }
        let absent = [(0, [0x0d, 0, 0, 0]), (0x15, [1, 1, 1, 0])];
        assert_eq!(processor(table(&absent)), None);
        let no_base = [(0, [0x16, 0, 0, 0]), (0x15, [2, 242, 0, 0])];
        assert_eq!(processor(table(&no_base)), None);
        // The product does not overflow.
        let wild = [(0, [u32::MAX; 4]), (0x15, [1, u32::MAX, u32::MAX, 0])];
        assert!(processor(table(&wild)).is_some());
        assert!(!is_invariant(table(&[INVARIANT[1]])));
    }

    #[test]
    fn hypervisors_are_found_by_their_signature_at_any_base() {
        for base in [0x4000_0000, 0x4000_0100, 0x4000_ff00] {
            let leaves = [HYPERVISOR, (base, kvm_leaf(base + 1))];
            let largest = base + 1;
            assert_eq!(kvm(table(&leaves)), Some(Hypervisor { base, largest }));
            assert_eq!(kvm(table(&leaves[1..])), None, "no hypervisor");
        }
        let old = [HYPERVISOR, (0x4000_0000, kvm_leaf(0))];
        assert_eq!(kvm(table(&old)).unwrap().largest, 0x4000_0001);
        let beyond = [HYPERVISOR, (0x4001_0000, kvm_leaf(0x4001_0001))];
        assert_eq!(kvm(table(&beyond)), None);
        let other = [HYPERVISOR, (0x4000_0000, signed(9, b"TCGTCGTCGTCG"))];
        assert_eq!(kvm(table(&other)), None);
    }

    #[test]
    fn the_timing_leaf_counts_where_the_hypervisor_is_known_and_has_it() {
        let rate = Rate {
            hz: 2_249_998_000,
            error_ppm: 1,
        };
        let said = Some(Answer { rate, sure: true });
        for (signature, largest, expected) in [
            (b"KVMKVMKVM\0\0\0", 0x4000_0010, said),
            (b"VMwareVMware", 0x4000_0010, said),
            (b"KVMKVMKVM\0\0\0", 0x4000_000f, None),
            // Hyper-V has something else there.
            (b"Microsoft Hv", 0x4000_0082, None),
        ] {
            let leaves = [
                HYPERVISOR,
                (0x4000_0000, signed(largest, signature)),
                (0x4000_0010, [2_249_998, 1_000_000, 0, 0]),
            ];
            assert_eq!(hypervisor(table(&leaves)), expected);
        }
        let silent = [HYPERVISOR, (0x4000_0000, kvm_leaf(0x4000_0010))];
        assert_eq!(hypervisor(table(&silent)), None);
    }
}
