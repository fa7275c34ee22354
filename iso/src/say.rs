//! What the tool tells the person at the terminal: progress and errors, always on standard error, so
//! that standard output belongs to results. What is worth saying is the callers' business.

/// Says what the tool is doing now.
pub fn progress(text: &str) {
    eprintln!("iso: {text}");
}

/// Shows an error with all its causes, outermost first.
pub fn error(error: &anyhow::Error) {
    eprintln!("iso: error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("iso:   because: {cause}");
    }
}
