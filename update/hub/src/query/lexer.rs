//! A query's text in tokens.

use super::Misread;

/// A piece of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Quoted(String),
    Open,
    Close,
    Equal,
    NotEqual,
    Less,
    More,
    End,
}

/// Takes tokens from the front of a text.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// The next token, and where it stands.
    pub(super) fn next(&mut self) -> Result<(usize, Token), Misread> {
        self.skip_space();
        let at = self.at;
        let rest = self.rest();
        let symbols = [
            ("!=", Token::NotEqual),
            ("=", Token::Equal),
            ("<", Token::Less),
            (">", Token::More),
            ("(", Token::Open),
            (")", Token::Close),
        ];
        for (symbol, token) in symbols {
            if rest.starts_with(symbol) {
                self.at += symbol.len();
                return Ok((at, token));
            }
        }
        match rest.chars().next() {
            None => Ok((at, Token::End)),
            Some('"') => self.quoted(at),
            Some(_) => {
                let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
                if end == 0 {
                    return Err(Misread {
                        at,
                        why: "this character stands only in double quotes",
                    });
                }
                self.at += end;
                let word = rest.get(..end).unwrap_or_default();
                Ok((at, Token::Word(word.to_owned())))
            }
        }
    }

    fn quoted(&mut self, at: usize) -> Result<(usize, Token), Misread> {
        let inside = self.text.get(at + 1..).unwrap_or_default();
        let Some(end) = inside.find('"') else {
            return Err(Misread {
                at,
                why: "the closing quote is missing",
            });
        };
        self.at = at + end + 2;
        let text = inside.get(..end).unwrap_or_default();
        Ok((at, Token::Quoted(text.to_owned())))
    }

    /// A value: a word, or a text in quotes.
    pub(super) fn value(&mut self) -> Result<(usize, String), Misread> {
        match self.next()? {
            (at, Token::Word(text) | Token::Quoted(text)) => Ok((at, text)),
            (at, _) => Err(Misread {
                at,
                why: "a value should stand here",
            }),
        }
    }

    /// Takes the next token if it is this word.
    pub(super) fn take_word(&mut self, word: &str) -> Result<bool, Misread> {
        let before = self.at;
        if let (_, Token::Word(found)) = self.next()?
            && found == word
        {
            return Ok(true);
        }
        self.at = before;
        Ok(false)
    }
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.' | ':' | '/' | '+' | '@')
}
