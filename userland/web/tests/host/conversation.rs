//! Conversations with one connection, in pieces of every size.

use sha2::{Digest, Sha256};
use web::connection::{Connection, Content, HEAD_PATIENCE, IDLE, LINGER};
use web::pattern;

struct Page;

impl Content for Page {
    fn page(&mut self) -> String {
        "<html>the page</html>".to_owned()
    }
}

/// Feeds a connection in pieces and takes its answers in pieces, until neither moves.
struct Talk {
    connection: Connection,
    pending: Vec<u8>,
    answer: Vec<u8>,
    now: u64,
}

impl Talk {
    fn new() -> Talk {
        Talk {
            connection: Connection::new(0),
            pending: vec![],
            answer: vec![],
            now: 0,
        }
    }

    fn say(&mut self, bytes: &[u8], in_pieces: usize, out_pieces: usize) {
        self.pending.extend_from_slice(bytes);
        loop {
            let count = self.pending.len().min(in_pieces);
            let taken = self
                .connection
                .input(self.now, &self.pending[..count], &mut Page);
            self.pending.drain(..taken);
            let mut buffer = vec![0; out_pieces];
            let sent = self.connection.output(self.now, &mut buffer);
            self.answer.extend_from_slice(&buffer[..sent]);
            if taken == 0 && sent == 0 && !self.connection.has_output() {
                return;
            }
        }
    }

    fn answer(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.answer)).expect("text")
    }
}

fn ask(request: &str) -> (String, Talk) {
    let mut talk = Talk::new();
    talk.say(request.as_bytes(), usize::MAX, 4096);
    (talk.answer(), talk)
}

const HOST: &str = "Host: quail\r\n";

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{HOST}\r\n")
}

#[test]
fn the_page_is_served_whatever_the_pieces() {
    for in_pieces in [1, 2, 7, 1000] {
        for out_pieces in [1, 3, 1000] {
            let mut talk = Talk::new();
            talk.say(get("/").as_bytes(), in_pieces, out_pieces);
            let answer = talk.answer();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains("Content-Length: 21\r\n"));
            assert!(answer.ends_with("\r\n\r\n<html>the page</html>"));
            assert!(!talk.connection.has_ended(), "kept alive");
        }
    }
}

#[test]
fn several_requests_follow_each_other_also_in_one_piece() {
    let requests = format!("{}{}{}", get("/"), get("/bytes/3"), get("/"));
    for in_pieces in [1, 10, 1000] {
        let mut talk = Talk::new();
        talk.say(requests.as_bytes(), in_pieces, 50);
        let answer = String::from_utf8_lossy(&talk.answer).into_owned();
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    }
}

#[test]
fn generated_bytes_are_the_pattern_and_exactly_as_many() {
    for count in [0u64, 1, 7, 8, 9, 4095, 100_000] {
        let mut talk = Talk::new();
        talk.say(get(&format!("/bytes/{count}")).as_bytes(), 1000, 777);
        let end = talk
            .answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap()
            + 4;
        let mut expected = vec![0; count as usize];
        pattern::fill(0, &mut expected);
        assert_eq!(talk.answer[end..], expected[..]);
        let head = String::from_utf8(talk.answer[..end].to_vec()).unwrap();
        assert!(head.contains(&format!("Content-Length: {count}\r\n")));
    }
}

#[test]
fn an_upload_is_answered_with_its_length_and_hash() {
    let mut body = vec![0; 10_000];
    pattern::fill(5, &mut body);
    let digest: String = Sha256::digest(&body)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for in_pieces in [1, 999, 100_000] {
        let head = format!("PUT /sink HTTP/1.1\r\n{HOST}Content-Length: 10000\r\n\r\n");
        let mut talk = Talk::new();
        talk.say(head.as_bytes(), in_pieces, 100);
        assert!(talk.answer.is_empty(), "nothing before the body is there");
        talk.say(&body, in_pieces, 100);
        let answer = talk.answer();
        assert!(
            answer.ends_with(&format!("\r\n\r\nlength 10000\nsha256 {digest}\n")),
            "{answer}"
        );
        talk.say(get("/").as_bytes(), in_pieces, 100);
        assert!(talk.answer().starts_with("HTTP/1.1 200"), "kept alive");
    }
    let (answer, _) = ask(&format!(
        "PUT /sink HTTP/1.1\r\n{HOST}Content-Length: 0\r\n\r\n"
    ));
    assert!(answer.contains("length 0\nsha256 e3b0c442"), "{answer}");
}

#[test]
fn who_waits_for_leave_gets_it() {
    let head =
        format!("PUT /sink HTTP/1.1\r\n{HOST}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let (answer, mut talk) = ask(&head);
    assert_eq!(answer, "HTTP/1.1 100 Continue\r\n\r\n");
    talk.say(b"quail", 2, 100);
    assert!(talk.answer().starts_with("HTTP/1.1 200 OK\r\n"));
    let (answer, _) = ask(&format!(
        "GET / HTTP/1.1\r\n{HOST}Expect: the unexpected\r\n\r\n"
    ));
    assert!(answer.starts_with("HTTP/1.1 417"));
}

#[test]
fn head_says_the_same_without_the_body() {
    let (with, _) = ask(&get("/"));
    let (without, mut talk) = ask(&get("/").replace("GET", "HEAD"));
    assert_eq!(with, format!("{without}<html>the page</html>"));
    let (bytes, _) = ask(&get("/bytes/50").replace("GET", "HEAD"));
    assert!(bytes.contains("Content-Length: 50\r\n") && bytes.ends_with("\r\n\r\n"));
    talk.say(get("/").as_bytes(), 100, 100);
    assert!(talk.answer().starts_with("HTTP/1.1 200"));
}

#[test]
fn the_connection_ends_when_the_client_or_the_version_says_so() {
    let (answer, mut talk) = ask(&format!(
        "GET / HTTP/1.1\r\n{HOST}Connection: a, Close\r\n\r\n"
    ));
    assert!(answer.contains("Connection: close\r\n") && talk.connection.has_ended());
    // It stays until the client ends as well, and what comes is dropped.
    talk.say(get("/").as_bytes(), 100, 100);
    assert!(talk.answer.is_empty() && !talk.connection.is_done());
    talk.connection.input_ended(0);
    assert!(talk.connection.is_done());
    let (_, talk) = ask("GET / HTTP/1.0\r\n\r\n");
    assert!(talk.connection.has_ended());
    let (_, talk) = ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(!talk.connection.has_ended());
}

#[test]
fn each_mistake_has_its_answer() {
    let long_line = format!("GET /{} HTTP/1.1\r\n", "a".repeat(9_000));
    let long_field = format!("GET / HTTP/1.1\r\n{HOST}X: {}\r\n\r\n", "a".repeat(9_000));
    let many = format!("GET / HTTP/1.1\r\n{HOST}{}\r\n", "X: y\r\n".repeat(80));
    let with = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\n{HOST}{fields}\r\n");
    let cases = [
        (with("GET /nowhere", ""), "404"),
        (with("GET /bytes", ""), "404"),
        (with("GET /bytes/", ""), "400"),
        (with("GET /bytes/-1", ""), "400"),
        (with("GET /bytes/+1", ""), "400"),
        (with("GET /bytes/1x", ""), "400"),
        (with("GET /bytes/99999999999999999999", ""), "400"),
        (with("POST /", ""), "405"),
        (with("GET /sink", ""), "405"),
        (with("DELETE /bytes/1", ""), "405"),
        (with("PUT /sink", ""), "411"),
        (with("PUT /sink", "Transfer-Encoding: chunked\r\n"), "411"),
        (
            with(
                "PUT /sink",
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            ),
            "400",
        ),
        (
            with("PUT /sink", "Content-Length: 5\r\nContent-Length: 6\r\n"),
            "400",
        ),
        (with("PUT /sink", "Content-Length: five\r\n"), "400"),
        (with("PUT /sink", "Content-Length: -5\r\n"), "400"),
        (
            with("PUT /sink", "Content-Length: 1099511627777\r\n"),
            "413",
        ),
        (
            with("PUT /sink", "Content-Length: 99999999999999999999999\r\n"),
            "413",
        ),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        (with("GET /", HOST), "400"),
        ("quail\r\n\r\n".to_owned(), "400"),
        ("\0\u{1}\u{2}\r\n\r\n".to_owned(), "400"),
        (format!("GET / HTTP/2.0\r\n{HOST}\r\n"), "505"),
        (long_line, "414"),
        (long_field, "431"),
        (many, "431"),
    ];
    for (request, status) in cases {
        for in_pieces in [1, 100, 100_000] {
            let mut talk = Talk::new();
            talk.say(request.as_bytes(), in_pieces, 300);
            let answer = talk.answer();
            let start = &request[..request.len().min(60)];
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{start:?}: {answer}"
            );
            assert!(answer.contains("Connection: close\r\n"), "{start:?}");
            assert!(talk.connection.has_ended(), "{start:?}");
        }
    }
    let (answer, _) = ask(&with("POST /", ""));
    assert!(answer.contains("Allow: GET, HEAD\r\n"));
}

#[test]
fn a_body_that_nobody_asked_for_ends_the_connection() {
    let request = format!("GET / HTTP/1.1\r\n{HOST}Content-Length: 16\r\n\r\nGET / HTTP/1.1\r\n");
    let (answer, talk) = ask(&request);
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1);
    assert!(answer.contains("Connection: close") && talk.connection.has_ended());
}

#[test]
fn patience_ends() {
    let mut idle = Talk::new();
    idle.connection.expire(IDLE - 1);
    assert!(!idle.connection.has_ended());
    idle.connection.expire(IDLE);
    assert!(idle.connection.has_ended() && !idle.connection.is_done());
    idle.connection.expire(IDLE + LINGER);
    assert!(idle.connection.is_done());

    // A head that drips in: each byte in time, all of them not.
    let mut dripping = Talk::new();
    for byte in b"GET / HTTP/1.1" {
        dripping.say(&[*byte], 1, 100);
        dripping.now += HEAD_PATIENCE / 15;
    }
    assert!(!dripping.connection.has_ended());
    dripping.now = HEAD_PATIENCE;
    dripping.connection.expire(dripping.now);
    dripping.say(b"", 1, 1000);
    assert!(dripping.answer().starts_with("HTTP/1.1 408 "));

    let (_, mut stalled) = ask(&format!(
        "PUT /sink HTTP/1.1\r\n{HOST}Content-Length: 9\r\n\r\n"
    ));
    stalled.connection.expire(stalled.connection.deadline());
    assert!(stalled.connection.is_done());
}

#[test]
fn a_client_that_ends_in_the_middle_is_let_go() {
    for part in [
        "",
        "GET / HT",
        "PUT /sink HTTP/1.1\r\nHost: q\r\nContent-Length: 9\r\n\r\n1234",
    ] {
        let (_, mut talk) = ask(part);
        talk.connection.input_ended(0);
        assert!(talk.connection.has_ended());
        talk.connection.input_ended(0);
        assert!(talk.connection.is_done());
    }
    // A client may end its half and still wait for the answer.
    let (_, mut talk) = ask("");
    let request = get("/bytes/100000");
    talk.connection.input(0, request.as_bytes(), &mut Page);
    talk.connection.input_ended(0);
    talk.say(b"", 1, 1000);
    assert!(talk.answer.len() > 100_000);
}

#[test]
fn random_requests_never_break_the_conversation() {
    let mut state = 0x1357_9bdf_2468_ace0u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let seeds = [
        get("/"),
        get("/bytes/64"),
        format!("PUT /sink HTTP/1.1\r\n{HOST}Content-Length: 20\r\n\r\n01234567890123456789"),
    ];
    for round in 0..3_000 {
        let mut bytes = seeds[round % seeds.len()].clone().into_bytes();
        for _ in 0..random() % 6 {
            let position = random() as usize % bytes.len();
            bytes[position] = random() as u8;
        }
        let mut talk = Talk::new();
        talk.say(
            &bytes,
            1 + random() as usize % 64,
            1 + random() as usize % 64,
        );
        talk.connection.input_ended(0);
        talk.connection.expire(u64::MAX);
        let answer = String::from_utf8_lossy(&talk.answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 "),
            "{answer}"
        );
    }
}
