//! Hostile programs beside the system: while the whole suite runs - wild arguments, exhaustion, floods,
//! corrupted rings, deaths in every state - the web page is served, every time it is asked for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use tests::case::say;
use tests::images::{Kind, image};
use tests::{Setup, case, http, suite};

#[test]
fn page_is_served_meanwhile() {
    let what = "the web page is served while every hostile program of the suite runs";
    case("page_is_served_meanwhile", what, || {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
        let port = echo.local_addr()?.port();
        thread::spawn(move || echo.incoming().flatten().for_each(answer));
        // The guest reaches the host's loopback address as its gateway.
        let mut machine = Setup::new(image(Kind::Beside)?)
            .cpus(2)
            .forward(80)
            .append(&format!("suite.peer=10.0.2.2:{port}"))
            .start()?;
        let page = machine.url("/")?;
        let long = machine.url("/bytes/300000")?;
        http::get_again(&page)?;
        let (over, pages) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let client = scope.spawn(|| -> Result<()> {
                let expected = http::expected(300_000);
                while !over.load(Ordering::Relaxed) {
                    let text = http::get(&http::client(), &page)?;
                    ensure!(text.contains("Uzura"), "the page is: {text}");
                    let got = http::download(&http::client(), &long, |_| Ok(()))?;
                    ensure!(got == expected, "{} bytes arrived wrong", got.length);
                    pages.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            let report = suite::run(&mut machine.console);
            over.store(true, Ordering::Relaxed);
            client
                .join()
                .map_err(|_| anyhow!("the client panicked"))??;
            let report = report?;
            let served = pages.load(Ordering::Relaxed);
            say(&format!(
                "  {served} pages and downloads during {} tests",
                report.passed + report.failed
            ));
            ensure!(served > 0, "no page was served meanwhile");
            report.all_passed()
        })
    });
}

/// Sends back whatever comes.
fn answer(mut stream: TcpStream) {
    thread::spawn(move || {
        let mut piece = [0; 4096];
        // The guest ends connections as it likes.
        while let Ok(count @ 1..) = stream.read(&mut piece) {
            if stream.write_all(&piece[..count]).is_err() {
                return;
            }
        }
    });
}
