//! This host's addresses, routes, name servers and packet size: fixed by the configuration, or leased from
//! a DHCP server and given back when the lease ends. Link layer and smoltcp are told by
//! [`crate::stack`].

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use crate::config::{Cidr, Config};
use crate::dhcp::{Client, Request, Step, payload};
use crate::link::{Mac, Route};
use crate::time::{Nanoseconds, SECOND};
use crate::wire::{Port, Wire};

/// Times that an address is announced, and the time between (RFC 5227, section 1.1: ANNOUNCE_NUM,
/// ANNOUNCE_INTERVAL).
const ANNOUNCEMENTS: u32 = 2;
const ANNOUNCE_INTERVAL: Nanoseconds = 2 * SECOND;

/// What holds for this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Its addresses, each with its network.
    pub(crate) addresses: Vec<Cidr>,
    pub(crate) routes: Vec<Route>,
    /// In the order of preference.
    pub(crate) name_servers: Vec<IpAddr>,
    /// Largest packet in bytes, where something says so.
    pub(crate) mtu: Option<usize>,
}

/// Addresses to be made known.
#[derive(Debug)]
struct Announcement {
    left: u32,
    due: Nanoseconds,
}

/// Where addresses come from.
pub(crate) struct Addresses {
    fixed: Settings,
    lease: Option<Client>,
    announcement: Option<Announcement>,
    settings: Settings,
}

impl Addresses {
    /// The fixed addresses, or a DHCP client for this card.
    pub(crate) fn new(config: &Config, mac: Mac, now: Nanoseconds, seed: u64) -> Addresses {
        let fixed = fixed(config);
        let lease = config
            .is_dynamic()
            .then(|| Client::new(mac, now, seed.rotate_left(32)));
        let mut addresses = Addresses {
            settings: fixed.clone(),
            fixed,
            lease,
            announcement: None,
        };
        addresses.announce(now);
        addresses
    }

    /// What holds now.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether a DHCP client listens to servers.
    pub(crate) fn is_leasing(&self) -> bool {
        self.lease.is_some()
    }

    /// When [`Addresses::poll`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        let lease = self.lease.as_ref().and_then(Client::deadline);
        let announcement = self.announcement.as_ref().map(|next| next.due);
        lease.into_iter().chain(announcement).min()
    }

    /// Sends what is due; true when the settings changed.
    pub(crate) fn poll<W: Wire>(&mut self, now: Nanoseconds, port: &mut Port<'_, W>) -> bool {
        let mut changed = false;
        while let Some(client) = &mut self.lease
            && let Some(step) = client.poll(now)
        {
            match step {
                Step::Send(request) => send(port, client.mac(), &request),
                Step::Lost => changed |= self.renew_settings(now),
            }
        }
        self.send_announcements(now, port);
        changed
    }

    /// Takes an IP packet from a DHCP server; true when the settings changed.
    pub(crate) fn receive_dhcp(&mut self, now: Nanoseconds, packet: &[u8]) -> bool {
        let Some(client) = &mut self.lease else {
            return false;
        };
        let changed = payload(packet).is_some_and(|message| client.receive(now, message));
        changed && self.renew_settings(now)
    }

    /// Someone else uses an address of this host; true when the settings changed.
    pub(crate) fn conflict<W: Wire>(
        &mut self,
        now: Nanoseconds,
        port: &mut Port<'_, W>,
        address: IpAddr,
    ) -> bool {
        let (Some(client), IpAddr::V4(address)) = (&mut self.lease, address) else {
            return false;
        };
        let Some(decline) = client.conflict(now, address) else {
            return false;
        };
        send(port, client.mac(), &decline);
        self.renew_settings(now)
    }

    /// The card came back, with this address: neighbours are told where this host is, and behind another
    /// card a lease is asked for anew. True when the settings changed.
    pub(crate) fn card_returned(&mut self, now: Nanoseconds, mac: Mac) -> bool {
        if let Some(client) = &mut self.lease
            && client.mac() != mac
        {
            client.restart(mac, now);
        }
        self.announce(now);
        self.renew_settings(now)
    }

    /// Puts the settings together; true when they are others than before.
    fn renew_settings(&mut self, now: Nanoseconds) -> bool {
        let mut settings = self.fixed.clone();
        if let Some(terms) = self.lease.as_ref().and_then(Client::terms) {
            let own = Cidr {
                address: terms.address.into(),
                prefix: terms.prefix,
            };
            settings.addresses.push(own);
            settings.routes.push(Route::on_link(own));
            settings.routes.extend(terms.routes.iter().copied());
            if settings.name_servers.is_empty() {
                settings.name_servers.extend(&terms.name_servers);
            }
            let mtu = terms.mtu.map(usize::from);
            settings.mtu = settings.mtu.into_iter().chain(mtu).min();
        }
        let moved = settings.addresses != self.settings.addresses;
        let changed = settings != self.settings;
        self.settings = settings;
        if moved {
            self.announce(now);
        }
        changed
    }

    fn announce(&mut self, now: Nanoseconds) {
        self.announcement = Some(Announcement {
            left: ANNOUNCEMENTS,
            due: now,
        });
    }

    fn send_announcements<W: Wire>(&mut self, now: Nanoseconds, port: &mut Port<'_, W>) {
        let Some(next) = self.announcement.as_mut().filter(|next| next.due <= now) else {
            return;
        };
        next.left -= 1;
        next.due = now.saturating_add(ANNOUNCE_INTERVAL);
        if next.left == 0 {
            self.announcement = None;
        }
        for own in self.settings.addresses.iter().filter_map(ipv4) {
            port.link.announce(port.wire, own);
        }
    }
}

fn ipv4(own: &Cidr) -> Option<Ipv4Addr> {
    match own.address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn send<W: Wire>(port: &mut Port<'_, W>, mac: Mac, request: &Request) {
    port.send(request.bytes(mac), |packet| request.write(mac, packet));
}

/// What the configuration says.
fn fixed(config: &Config) -> Settings {
    let networks = config.addresses.iter().map(|own| Route::on_link(*own));
    let gateways = config
        .gateways
        .iter()
        .map(|gateway| Route::default_by(*gateway));
    Settings {
        addresses: config.addresses.clone(),
        routes: networks.chain(gateways).collect(),
        name_servers: config.name_servers.clone(),
        mtu: config.mtu,
    }
}
