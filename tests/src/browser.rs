//! A real browser, headless, driven by WebDriver.
//!
//! Protocol: <https://www.w3.org/TR/webdriver2/>; what it lacks (a screenshot of the whole page,
//! dark and light, the size of a phone) is asked for by the DevTools protocol, which chromedriver
//! passes on. Calls block: they are one after the other anyway.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{EVENTUALLY_MAX, process::Watched};

/// Only a broken browser takes this long to start or to answer.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
/// The key of an element in WebDriver's JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Keys as WebDriver writes them.
pub mod keys {
    /// Return.
    pub const ENTER: char = '\u{e007}';
    /// To the next element.
    pub const TAB: char = '\u{e004}';
    /// Held with another: the other way.
    pub const SHIFT: char = '\u{e008}';
}

/// A running browser with one window; ends when dropped.
#[derive(Debug)]
pub struct Browser {
    driver: Watched,
    address: String,
    session: String,
    _home: TempDir,
}

impl Browser {
    /// Starts one with a window of this size.
    ///
    /// # Panics
    /// When chromedriver or Chromium is not installed or does not start.
    pub fn start(width: u32, height: u32) -> Self {
        let home = TempDir::with_prefix("pannier-browser-").expect("a temporary directory");
        let mut command = Command::new("chromedriver");
        command.args(["--port=0"]).env("HOME", home.path());
        let driver = Watched::start(command);
        let port = driver.wait_for(PATIENCE, |output| {
            let (_, rest) = output.stdout.split_once("successfully on port ")?;
            Some(rest.split_once('.')?.0.to_owned())
        });
        let port = port.unwrap_or_else(|| panic!("chromedriver: {}", driver.stderr()));
        let mut browser = Self {
            driver,
            address: format!("127.0.0.1:{port}"),
            session: "/session".into(),
            _home: home,
        };
        let profile = browser._home.path().join("profile");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &format!("--user-data-dir={}", profile.display()),
            &format!("--window-size={width},{height}"),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        }}});
        let session = browser.call("POST", "", &wanted);
        let id = session["sessionId"].as_str().expect("a session has an id");
        browser.session = format!("/session/{id}");
        browser.size(width, height);
        browser
    }

    /// Opens an address and waits until it is loaded.
    pub fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({ "url": url }));
    }

    /// Runs a function's body in the page; `arguments` holds what is given.
    pub fn run(&self, script: &str, arguments: Value) -> Value {
        let call = json!({ "script": script, "args": arguments });
        self.call("POST", "/execute/sync", &call)
    }

    /// What a person reads in the first element of a selector; empty when there is none or it is
    /// hidden.
    pub fn text(&self, selector: &str) -> String {
        // What is hidden has an innerText too.
        let script = "
            const it = document.querySelector(arguments[0]);
            return it?.checkVisibility() ? it.innerText : ''";
        let text = self.run(script, json!([selector]));
        text.as_str().expect("text").trim().to_owned()
    }

    /// What a person reads in each element of a selector.
    pub fn texts(&self, selector: &str) -> Vec<String> {
        let script = "return [...document.querySelectorAll(arguments[0])].map(it => it.innerText)";
        let texts = self.run(script, json!([selector]));
        let texts = texts.as_array().expect("a list").iter();
        texts
            .map(|it| it.as_str().expect("text").trim().to_owned())
            .collect()
    }

    /// An attribute of the first element of a selector.
    pub fn attribute(&self, selector: &str, name: &str) -> Option<String> {
        let script = "return document.querySelector(arguments[0])?.getAttribute(arguments[1])";
        let value = self.run(script, json!([selector, name]));
        value.as_str().map(str::to_owned)
    }

    /// Clicks as a person does: the element must be visible and not covered.
    pub fn click(&self, selector: &str) {
        let found = json!({ "using": "css selector", "value": selector });
        let element = self.call("POST", "/element", &found);
        let id = element[ELEMENT].as_str().expect("an element");
        self.call("POST", &format!("/element/{id}/click"), &json!({}));
    }

    /// Sets the focus, as a person who has tabbed there.
    pub fn focus(&self, selector: &str) {
        self.run(
            "document.querySelector(arguments[0]).focus()",
            json!([selector]),
        );
    }

    /// Presses keys, one after the other; all but the last are held.
    pub fn press(&self, held_and_last: &[char]) {
        let downs = held_and_last.iter();
        let downs = downs.map(|key| json!({ "type": "keyDown", "value": key }));
        let ups = held_and_last.iter().rev();
        let ups = ups.map(|key| json!({ "type": "keyUp", "value": key }));
        let actions: Vec<_> = downs.chain(ups).collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.call("POST", "/actions", &json!({ "actions": [keyboard] }));
    }

    /// Types a text where the focus is.
    pub fn type_text(&self, text: &str) {
        text.chars().for_each(|key| self.press(&[key]));
    }

    /// Waits until this is so in the page.
    ///
    /// # Panics
    /// When it is not in time, with what the page shows.
    pub fn waits_for(&self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !is(self) {
            let page = || self.text("body");
            assert!(
                begun.elapsed() < EVENTUALLY_MAX,
                "not in time: {what}\n{}",
                page()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Opens a second window, in front of the first, and goes to it. Returns the first.
    pub fn second_window(&self) -> String {
        let first = self.call("GET", "/window", &Value::Null);
        let second = self.call("POST", "/window/new", &json!({ "type": "tab" }));
        self.call("POST", "/window", &json!({ "handle": second["handle"] }));
        first.as_str().expect("a handle").to_owned()
    }

    /// Closes the window and goes back to another.
    pub fn back_to(&self, window: &str) {
        self.call("DELETE", "/window", &Value::Null);
        self.call("POST", "/window", &json!({ "handle": window }));
    }

    /// Gives the page this size.
    pub fn size(&self, width: u32, height: u32) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    /// `light` or `dark`, as the reader's system prefers.
    pub fn prefer(&self, scheme: &str) {
        let features = json!({ "features": [
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]});
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    /// Writes what is in the window as PNG.
    pub fn screenshot(&self, path: &Path) {
        let shot = self.devtools("Page.captureScreenshot", &json!({ "format": "png" }));
        let data = shot["data"].as_str().expect("a picture");
        let data = STANDARD.decode(data).expect("base64");
        fs::write(path, data).expect("the picture can be written");
    }

    /// What the page, or the browser about it, has written to the console since the last call.
    pub fn console(&self) -> Vec<String> {
        let lines = self.call("POST", "/se/log", &json!({ "type": "browser" }));
        let lines = lines.as_array().expect("a list").iter();
        lines
            .map(|it| it["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let call = json!({ "cmd": command, "params": parameters });
        self.call("POST", "/goog/cdp/execute", &call)
    }

    /// One command of the session.
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("{}{path}", self.session);
        let reply = ask(&self.address, method, &path, body, PATIENCE);
        let mut reply = reply.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let value = reply["value"].take();
        let fault = value.get("error").is_some_and(Value::is_string);
        assert!(
            !fault,
            "{method} {path} {body}: {value}\n{}",
            self.driver.stderr()
        );
        value
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Else Chromium would outlive its driver. If it does not answer, it has gone already.
        let patience = Duration::from_secs(10);
        let _ = ask(
            &self.address,
            "DELETE",
            &self.session,
            &Value::Null,
            patience,
        );
        self.driver.kill();
    }
}

/// One request over HTTP/1.1 with a body of JSON.
fn ask(
    address: &str,
    method: &str,
    path: &str,
    body: &Value,
    patience: Duration,
) -> io::Result<Value> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(patience))?;
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    // Not to the end of the stream: a browser that is started inherits it and holds it open.
    let mut reply = BufReader::new(stream);
    let mut length = 0;
    let mut line = String::new();
    while reply.read_line(&mut line)? > 2 {
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reply.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}
