//! An image for Google Compute Engine: the disk of `disk` in the archive that
//! `gcloud compute images create --source-uri` takes, and the commands that bring it there. Nothing of a
//! project, a region or an address is in it: they are the person's who types the commands.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, HeaderMode};

use crate::{disk, grub, say};

/// What the archive is called.
const NAME: &str = "uzura.tar.gz";

/// Packs a disk. Returns the archive's file, in `folder`, which appears whole or not at all.
///
/// Compute Engine wants a tar file of the old GNU format (as by `tar --format=oldgnu -S`), compressed with
/// gzip, and in it one file named `disk.raw`, a whole number of GiB long ("Import boot disk images to
/// Compute Engine: manual import"). The holes of the disk's file are left out.
pub fn pack(disk: &Path, folder: &Path) -> Result<PathBuf> {
    say::progress("packing the disk");
    let work = grub::work_folder(folder)?;
    let (fresh, archive) = (work.path().join(NAME), folder.join(NAME));
    let written = || format!("cannot write {}", archive.display());
    let mut source = File::open(disk).with_context(|| format!("cannot read {}", disk.display()))?;
    // No time and no name in gzip's header: the same disk gives the same archive.
    let output = BufWriter::new(File::create(&fresh).with_context(written)?);
    let mut builder = Builder::new(GzEncoder::new(output, Compression::best()));
    builder.mode(HeaderMode::Deterministic);
    builder.sparse(true);
    builder
        .append_file(disk::NAME, &mut source)
        .with_context(written)?;
    let mut output = builder.into_inner()?.finish().with_context(written)?;
    output.flush().with_context(written)?;
    std::fs::rename(&fresh, &archive).with_context(written)?;
    Ok(archive)
}

/// The commands that upload an archive and start it, with the console on the first serial port. They
/// are for a shell in which the variables of the first lines are set.
///
/// The guest has no driver for gVNIC, so the card is virtio-net; its boot loader is not signed, so
/// Secure Boot is off.
pub fn commands(archive: &Path) -> String {
    let archive = grub::quoted(&archive.display().to_string());
    format!(
        "\
# Set these to what is yours; the bucket exists already.
BUCKET=... ZONE=... NAME=uzura

gcloud storage cp {archive} \"gs://$BUCKET/$NAME.tar.gz\"
gcloud compute images create \"$NAME\" --source-uri=\"gs://$BUCKET/$NAME.tar.gz\" \\
    --architecture=X86_64 --guest-os-features=UEFI_COMPATIBLE
gcloud compute instances create \"$NAME\" --zone=\"$ZONE\" --machine-type=t2d-standard-1 \\
    --image=\"$NAME\" --network-interface=nic-type=VIRTIO_NET --no-shielded-secure-boot \\
    --no-service-account --no-scopes --metadata=serial-port-enable=TRUE

# What it has printed; the console, with the shell; the end of it all.
gcloud compute instances get-serial-port-output \"$NAME\" --zone=\"$ZONE\"
gcloud compute connect-to-serial-port \"$NAME\" --zone=\"$ZONE\"
gcloud compute instances delete \"$NAME\" --zone=\"$ZONE\"
gcloud compute images delete \"$NAME\"
"
    )
}
