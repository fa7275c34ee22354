//! This host's addresses, routes, name servers and packet size: fixed by the configuration, leased from a
//! DHCP server, or made of what IPv6 routers say. This is where they are put together and where what they
//! need sent goes out; link layer and smoltcp are told by [`crate::stack`].

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use crate::config::{Cidr, Config, Ipv6};
use crate::dhcp::{self, Client, Request, payload};
use crate::link::{Mac, Route};
use crate::mld;
use crate::ndp::{ALL_NODES, ALL_ROUTERS, RouterAdvertisement, Sent, solicited_node};
use crate::slaac::{self, Autoconfiguration, SMALLEST_MTU};
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
    /// Those of them that others are preferred to.
    pub(crate) deprecated: Vec<Ipv6Addr>,
    /// Addresses that will be its own if nobody objects.
    pub(crate) tentative: Vec<Ipv6Addr>,
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
    ipv6: Option<Autoconfiguration>,
    mac: Mac,
    announcement: Option<Announcement>,
    settings: Settings,
}

impl Addresses {
    /// The fixed addresses, or a DHCP client for this card.
    pub(crate) fn new(config: &Config, mac: Mac, now: Nanoseconds, seed: u64) -> Addresses {
        let lease = config.is_dynamic().then(|| Client::new(mac, now, seed));
        let own = config.addresses.iter().copied();
        let own: Vec<Cidr> = own.filter(|own| own.address.is_ipv6()).collect();
        let listens = config.ipv6 == Ipv6::Auto;
        let ipv6 = (config.ipv6 != Ipv6::Off)
            .then(|| Autoconfiguration::new(mac, own, listens, now, seed));
        let mut addresses = Addresses {
            settings: Settings::default(),
            fixed: fixed(config),
            lease,
            ipv6,
            mac,
            announcement: None,
        };
        addresses.renew_settings(now);
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
        let ipv6 = self.ipv6.as_ref().and_then(Autoconfiguration::deadline);
        let announcement = self.announcement.as_ref().map(|next| next.due);
        [lease, ipv6, announcement].into_iter().flatten().min()
    }

    /// Sends what is due; true when the settings changed.
    pub(crate) fn poll<W: Wire>(&mut self, now: Nanoseconds, port: &mut Port<'_, W>) -> bool {
        let mut changed = false;
        while let Some(client) = &mut self.lease
            && let Some(step) = client.poll(now)
        {
            match step {
                dhcp::Step::Send(request) => send(port, client.mac(), &request),
                dhcp::Step::Lost => changed |= self.renew_settings(now),
            }
        }
        while let Some(ipv6) = &mut self.ipv6
            && let Some(step) = ipv6.poll(now)
        {
            match step {
                slaac::Step::Changed => changed |= self.renew_settings(now),
                step => self.send_ipv6(port, step),
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
        let given_up = match (address, &mut self.lease, &mut self.ipv6) {
            (IpAddr::V4(address), Some(client), _) => {
                let decline = client.conflict(now, address);
                if let Some(decline) = &decline {
                    send(port, client.mac(), decline);
                }
                decline.is_some()
            }
            (IpAddr::V6(address), _, Some(ipv6)) => ipv6.conflict(now, address),
            _ => false,
        };
        given_up && self.renew_settings(now)
    }

    /// Takes what a router says of the link; true when the settings changed.
    pub(crate) fn receive_router(&mut self, now: Nanoseconds, said: &RouterAdvertisement) -> bool {
        let Some(ipv6) = &mut self.ipv6 else {
            return false;
        };
        ipv6.receive(now, said);
        self.renew_settings(now)
    }

    /// A router asks which groups are listened to.
    pub(crate) fn queried(&mut self, now: Nanoseconds, within: Nanoseconds) {
        if let Some(ipv6) = &mut self.ipv6 {
            ipv6.queried(now, within);
        }
    }

    /// A neighbour does not answer; true when the settings changed.
    pub(crate) fn neighbour_lost(&mut self, now: Nanoseconds, neighbour: IpAddr) -> bool {
        match (&mut self.ipv6, neighbour) {
            (Some(ipv6), IpAddr::V6(neighbour)) => {
                ipv6.router_lost(neighbour) && self.renew_settings(now)
            }
            _ => false,
        }
    }

    /// The card came back, with this address: neighbours are told where this host is, and behind another
    /// card a lease is asked for anew. True when the settings changed.
    pub(crate) fn card_returned(&mut self, now: Nanoseconds, mac: Mac) -> bool {
        if let Some(client) = &mut self.lease
            && client.mac() != mac
        {
            client.restart(mac, now);
        }
        if let Some(ipv6) = &mut self.ipv6 {
            ipv6.card_returned(mac, now);
        }
        self.mac = mac;
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
        // Packets of IPv6 may have this size everywhere (RFC 8200, section 5).
        let fits = settings.mtu.is_none_or(|mtu| mtu >= SMALLEST_MTU);
        if let Some(ipv6) = self.ipv6.as_ref().filter(|_| fits) {
            settings.add_ipv6(ipv6, self.fixed.name_servers.is_empty());
        }
        let ipv4 = |settings: &Settings| {
            let own = settings
                .addresses
                .iter()
                .filter(|own| own.address.is_ipv4());
            own.copied().collect::<Vec<Cidr>>()
        };
        let moved = ipv4(&settings) != ipv4(&self.settings);
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
        for own in &self.settings.addresses {
            match own.address {
                IpAddr::V4(address) => port.link.announce(port.wire, address),
                // RFC 4861, section 7.2.6.
                IpAddr::V6(target) => {
                    let solicited = false;
                    let said = Sent::Advertisement { target, solicited };
                    send_ndp(port, self.mac, (target, ALL_NODES), said);
                }
            }
        }
    }

    fn send_ipv6<W: Wire>(&self, port: &mut Port<'_, W>, step: slaac::Step) {
        match step {
            slaac::Step::Probe(target) => {
                let ends = (Ipv6Addr::UNSPECIFIED, solicited_node(target));
                send_ndp(port, self.mac, ends, Sent::Solicitation { target });
            }
            slaac::Step::Solicit(source) => {
                let ends = (source, ALL_ROUTERS);
                send_ndp(port, self.mac, ends, Sent::RouterSolicitation);
            }
            slaac::Step::Report(groups) => {
                let source = self.link_local();
                port.send(mld::report_bytes(groups.len()), |packet| {
                    mld::write_report(source, &groups, packet);
                });
            }
            slaac::Step::Changed => {}
        }
    }

    /// The address on the link, or none while there is none (RFC 3590, section 4).
    fn link_local(&self) -> Ipv6Addr {
        let own = self.settings.addresses.iter();
        let mut own = own.filter_map(|own| match own.address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        });
        let found = own.find(Ipv6Addr::is_unicast_link_local);
        found.unwrap_or(Ipv6Addr::UNSPECIFIED)
    }
}

impl Settings {
    /// Adds what holds for IPv6; name servers too, where none are fixed.
    fn add_ipv6(&mut self, ipv6: &Autoconfiguration, name_servers: bool) {
        self.addresses.extend(ipv6.addresses());
        self.deprecated.extend(ipv6.deprecated());
        self.tentative.extend(ipv6.tentative());
        self.routes.extend(ipv6.on_link().map(Route::on_link));
        let routers = ipv6.routers().map(IpAddr::V6);
        self.routes.extend(routers.map(Route::default_by));
        if name_servers {
            let servers = ipv6.name_servers().map(IpAddr::V6);
            self.name_servers.extend(servers);
        }
        self.mtu = self.mtu.into_iter().chain(ipv6.mtu()).min();
    }
}

fn send_ndp<W: Wire>(
    port: &mut Port<'_, W>,
    mac: Mac,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    message: Sent,
) {
    port.send(message.bytes(source), |packet| {
        message.write(source, destination, mac, packet);
    });
}

fn send<W: Wire>(port: &mut Port<'_, W>, mac: Mac, request: &Request) {
    port.send(request.bytes(mac), |packet| request.write(mac, packet));
}

/// What the configuration says, but for the IPv6 addresses, which others are asked about first.
fn fixed(config: &Config) -> Settings {
    let own = config.addresses.iter().copied();
    let own: Vec<Cidr> = own.filter(|own| own.address.is_ipv4()).collect();
    let networks = own.iter().map(|own| Route::on_link(*own));
    let gateways = config
        .gateways
        .iter()
        .map(|gateway| Route::default_by(*gateway));
    Settings {
        routes: networks.chain(gateways).collect(),
        addresses: own,
        name_servers: config.name_servers.clone(),
        mtu: config.mtu,
        ..Settings::default()
    }
}
