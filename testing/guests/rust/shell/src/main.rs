//! A small shell: `shell` carries out the lines of standard input, each as soon as it is there.
//!
//! A line is a pipeline of built-in commands, `one | two < FILE > FILE` or `>> FILE`, with `$NAME` for variables and
//! `#` before comments. What a command says that goes wrong is on standard error; `$?` tells whether it did.

mod commands;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;

/// What the shell remembers between lines.
#[derive(Default)]
struct Shell {
    variables: BTreeMap<String, String>,
    status: u8,
}

/// How a line ends the shell, if it does.
enum Next {
    Line,
    Exit(u8),
}

fn main() -> io::Result<ExitCode> {
    let mut shell = Shell::default();
    let mut line = String::new();
    // Not locked for long: `read` takes lines of the same input.
    while io::stdin().lock().read_line(&mut line)? > 0 {
        match shell.line(&line) {
            Ok(Next::Line) => {}
            Ok(Next::Exit(code)) => return Ok(ExitCode::from(code)),
            Err(error) => {
                eprintln!("shell: {error}");
                shell.status = 1;
            }
        }
        line.clear();
    }
    Ok(ExitCode::from(shell.status))
}

impl Shell {
    fn line(&mut self, line: &str) -> io::Result<Next> {
        let words = self.words(line);
        if let [word] = &words[..]
            && let Some((name, value)) = word.split_once('=')
        {
            self.variables.insert(name.to_owned(), value.to_owned());
            return Ok(Next::Line);
        }
        if words.is_empty() {
            return Ok(Next::Line);
        }
        // Each command has read all its input before the next one begins.
        let mut flow: Vec<u8> = Vec::new();
        let stages: Vec<&[String]> = words.split(|word| word == "|").collect();
        for (nth, stage) in stages.iter().enumerate() {
            let (mut args, mut input, mut output) = (Vec::new(), None, None);
            let mut words = stage.iter();
            while let Some(word) = words.next() {
                let mut file =
                    || words.next().ok_or_else(|| io::Error::other(format!("a file is missing after {word}")));
                match word.as_str() {
                    "<" => input = Some(File::open(file()?)?),
                    ">" => output = Some(File::create(file()?)?),
                    ">>" => output = Some(OpenOptions::new().append(true).create(true).open(file()?)?),
                    _ => args.push(word.as_str()),
                }
            }
            if let Some(mut file) = input {
                flow.clear();
                file.read_to_end(&mut flow)?;
            }
            match args[..] {
                [] => {}
                ["exit"] => return Ok(Next::Exit(self.status)),
                ["exit", code] => return Ok(Next::Exit(code.parse().unwrap_or(2))),
                ["read", name] => {
                    let mut text = String::new();
                    io::stdin().lock().read_line(&mut text)?;
                    self.variables.insert(name.to_owned(), text.trim_end().to_owned());
                }
                _ => {
                    let mut result = Vec::new();
                    let done = commands::run(&args, &flow, &mut result)?;
                    self.status = u8::from(!done);
                    flow = result;
                }
            }
            if let Some(mut file) = output {
                file.write_all(&flow)?;
                flow.clear();
            } else if nth + 1 == stages.len() {
                let mut out = io::stdout().lock();
                out.write_all(&flow)?;
                out.flush()?;
            }
        }
        Ok(Next::Line)
    }

    /// The words of a line, with variables put in. Operators are words of their own.
    fn words(&self, line: &str) -> Vec<String> {
        let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
        let mut letters = line.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '"' => {
                    quoted = !quoted;
                    any = true;
                }
                '$' => {
                    let mut name = String::new();
                    while let Some(letter) =
                        letters.next_if(|letter| letter.is_alphanumeric() || "_?".contains(*letter))
                    {
                        name.push(letter);
                    }
                    match name.as_str() {
                        "?" => word.push_str(&self.status.to_string()),
                        name => word.push_str(self.variables.get(name).map_or("", String::as_str)),
                    }
                    any = true;
                }
                '#' if !quoted && word.is_empty() => break,
                '|' | '<' | '>' if !quoted => {
                    if std::mem::take(&mut any) {
                        words.push(std::mem::take(&mut word));
                    }
                    let double = letter == '>' && letters.next_if_eq(&'>').is_some();
                    words.push(if double { ">>".to_owned() } else { letter.to_string() });
                }
                letter if letter.is_whitespace() && !quoted => {
                    if std::mem::take(&mut any) {
                        words.push(std::mem::take(&mut word));
                    }
                }
                letter => {
                    word.push(letter);
                    any = true;
                }
            }
        }
        if any {
            words.push(word);
        }
        words
    }
}
