// SPDX-License-Identifier: Apache-2.0
//! Decimal numbers as text, to exact integers. Never by way of a float.

/// Why a number cannot become an integer at some scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Digits that are not zero lie behind the scale.
    Inexact,
    /// It is larger than 128 bits hold.
    TooLarge,
}

/// A JSON number in a text, scanned once.
#[derive(Debug, Clone, Copy)]
pub(super) struct JsonNumber {
    /// Behind its last byte.
    pub(super) end: usize,
    negative: bool,
    /// All digits as one integer; meaningless past [`MANTISSA_DIGITS`] digits.
    mantissa: u64,
    /// Digits from the first that is not zero.
    digits: u32,
    /// The value is `mantissa * 10^exponent`.
    exponent: i32,
}

/// Digits that a `u64` surely holds.
const MANTISSA_DIGITS: u32 = 19;
/// Exponents are cut here; what lies beyond is out of every range.
const EXPONENT_LIMIT: i32 = 100_000;

fn digit(text: &[u8], at: usize) -> Option<u8> {
    text.get(at)
        .map(|b| b.wrapping_sub(b'0'))
        .filter(|d| *d < 10)
}

impl JsonNumber {
    /// Scans the number that starts at `at`; none if there is none as JSON writes them.
    #[inline]
    pub(super) fn scan(text: &[u8], at: usize) -> Option<Self> {
        let mut pos = at;
        let negative = text.get(pos) == Some(&b'-');
        pos += usize::from(negative);
        let start = pos;
        let mut mantissa = 0_u64;
        while let Some(d) = digit(text, pos) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(d));
            pos += 1;
        }
        let whole = pos - start;
        if whole == 0 || (whole > 1 && text[start] == b'0') {
            return None;
        }
        let mut number = Self {
            end: pos,
            negative,
            mantissa,
            digits: if text[start] == b'0' { 0 } else { whole as u32 },
            exponent: 0,
        };
        if let Some(b'.' | b'e' | b'E') = text.get(pos) {
            number.scan_tail(text)?;
        }
        Some(number)
    }

    /// The fraction and the exponent.
    fn scan_tail(&mut self, text: &[u8]) -> Option<()> {
        if text.get(self.end) == Some(&b'.') {
            let start = self.end + 1;
            self.end = start;
            while let Some(d) = digit(text, self.end) {
                self.mantissa = self.mantissa.wrapping_mul(10).wrapping_add(u64::from(d));
                self.digits += u32::from(self.digits > 0 || d > 0);
                self.end += 1;
            }
            if self.end == start {
                return None;
            }
            self.exponent = -(i32::try_from(self.end - start).unwrap_or(EXPONENT_LIMIT));
        }
        if let Some(b'e' | b'E') = text.get(self.end) {
            let (exponent, end) = scan_exponent(text, self.end + 1)?;
            self.exponent = self.exponent.saturating_add(exponent);
            self.end = end;
        }
        Some(())
    }

    /// The value if it is an integer of at most 18 digits, written without fraction and exponent.
    #[inline]
    pub(super) fn small_integer(&self) -> Option<i64> {
        if self.exponent != 0 || self.digits >= MANTISSA_DIGITS {
            return None;
        }
        // At most 18 digits: far below 2^63.
        let value = self.mantissa as i64;
        Some(if self.negative { -value } else { value })
    }

    /// The value times `10^scale`, exactly. `text` and `at` are those of the scan.
    pub(super) fn scaled(&self, text: &[u8], at: usize, scale: i32) -> Result<i128, Unfit> {
        if self.digits > MANTISSA_DIGITS {
            let number = Decimal::scan(&text[at..self.end]).ok_or(Unfit::TooLarge)?;
            return number.scaled(scale);
        }
        let magnitude = shift(
            u128::from(self.mantissa),
            self.exponent.saturating_add(scale),
        )?;
        signed(magnitude, self.negative)
    }

    /// The nearest float; infinite if it is out of range. `text` and `at` are those of the scan.
    #[inline]
    pub(super) fn float(&self, text: &[u8], at: usize) -> f64 {
        // Exact on both sides, so one rounding: Clinger's fast path.
        const POWERS: [f64; 23] = [
            1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
            1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
        ];
        let power = POWERS.get(self.exponent.unsigned_abs() as usize);
        if self.digits <= MANTISSA_DIGITS
            && self.mantissa <= 1 << 53
            && let Some(power) = power
        {
            let magnitude = if self.exponent < 0 {
                self.mantissa as f64 / power
            } else {
                self.mantissa as f64 * power
            };
            return if self.negative { -magnitude } else { magnitude };
        }
        std::str::from_utf8(&text[at..self.end])
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(f64::INFINITY)
    }
}

/// Reads `[+-]?digits`; the exponent, cut at the limit, and where it ends.
fn scan_exponent(text: &[u8], at: usize) -> Option<(i32, usize)> {
    let negative = text.get(at) == Some(&b'-');
    let start = at + usize::from(matches!(text.get(at), Some(b'+' | b'-')));
    let mut pos = start;
    let mut exponent = 0_i32;
    while let Some(d) = digit(text, pos) {
        exponent = (exponent * 10 + i32::from(d)).min(EXPONENT_LIMIT);
        pos += 1;
    }
    let signed = if negative { -exponent } else { exponent };
    (pos > start).then_some((signed, pos))
}

/// A decimal number of any length, as people and CSV writers put it: `+1.50`, `007`, `.5`, `1e3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    /// The digits from the first to the last that is not zero; none if they are more than 128 bits.
    digits: Option<u128>,
    exponent: i32,
}

impl Decimal {
    /// Reads all of `text`; none if it is not a number.
    pub(super) fn scan(text: &[u8]) -> Option<Self> {
        let negative = text.first() == Some(&b'-');
        let mut pos = usize::from(matches!(text.first(), Some(b'+' | b'-')));
        let mut digits = Some(0_u128);
        // Zeros count only once another digit follows.
        let mut zeros = 0_u32;
        let mut seen = 0_usize;
        let mut point: Option<usize> = None;
        loop {
            if let Some(d) = digit(text, pos) {
                seen += 1;
                zeros += 1;
                if d > 0 {
                    digits = digits
                        .and_then(|v| raise(v, zeros))
                        .and_then(|v| v.checked_add(u128::from(d)));
                    zeros = 0;
                }
            } else if text.get(pos) == Some(&b'.') && point.is_none() {
                point = Some(pos);
            } else {
                break;
            }
            pos += 1;
        }
        if seen == 0 {
            return None;
        }
        let fraction = point.map_or(0, |point| pos - point - 1);
        let mut exponent = i32::try_from(i64::from(zeros) - i64::try_from(fraction).ok()?).ok()?;
        if let Some(b'e' | b'E') = text.get(pos) {
            let (more, end) = scan_exponent(text, pos + 1)?;
            exponent = exponent.saturating_add(more);
            pos = end;
        }
        (pos == text.len()).then_some(Self {
            negative,
            digits,
            exponent,
        })
    }

    /// The value times `10^scale`, exactly.
    pub(super) fn scaled(&self, scale: i32) -> Result<i128, Unfit> {
        let digits = self.digits.ok_or(Unfit::TooLarge)?;
        let magnitude = shift(digits, self.exponent.saturating_add(scale))?;
        signed(magnitude, self.negative)
    }
}

fn raise(value: u128, power: u32) -> Option<u128> {
    if value == 0 {
        return Some(0);
    }
    10_u128
        .checked_pow(power)
        .and_then(|factor| value.checked_mul(factor))
}

/// `value * 10^power`, exactly.
fn shift(value: u128, power: i32) -> Result<u128, Unfit> {
    if power >= 0 {
        return raise(value, power.unsigned_abs()).ok_or(Unfit::TooLarge);
    }
    if value == 0 {
        return Ok(0);
    }
    let divisor = 10_u128
        .checked_pow(power.unsigned_abs())
        .ok_or(Unfit::Inexact)?;
    if value.is_multiple_of(divisor) {
        Ok(value / divisor)
    } else {
        Err(Unfit::Inexact)
    }
}

fn signed(magnitude: u128, negative: bool) -> Result<i128, Unfit> {
    let value = i128::try_from(magnitude).map_err(|_| Unfit::TooLarge)?;
    Ok(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(text: &str, scale: i32) -> Option<Result<i128, Unfit>> {
        let number = JsonNumber::scan(text.as_bytes(), 0)?;
        (number.end == text.len()).then(|| number.scaled(text.as_bytes(), 0, scale))
    }

    #[test]
    fn numbers_are_what_json_says() {
        for good in [
            "0", "-0", "1", "10", "1.0", "0.1", "1e5", "1E+5", "1e-5", "-1.50e2",
        ] {
            assert!(json(good, 0).is_some(), "{good}");
        }
        for bad in [
            "", "-", "01", "00", "+1", ".5", "1.", "1e", "1e+", "1.e5", "--1", "0x1", "1.5.5",
            "NaN",
        ] {
            assert_eq!(json(bad, 0), None, "{bad}");
        }
    }

    #[test]
    fn scaling_is_exact() {
        let many_zeros = format!("1.{}", "0".repeat(60));
        let cases: [(&str, i32, Result<i128, Unfit>); 13] = [
            ("1.50", 2, Ok(150)),
            ("1.50", 1, Ok(15)),
            ("1.50", 0, Err(Unfit::Inexact)),
            ("1e3", 0, Ok(1000)),
            ("1.5e1", 0, Ok(15)),
            ("-0.0", 0, Ok(0)),
            ("9223372036854775808", 0, Ok(1 << 63)),
            ("0e999999999999", 0, Ok(0)),
            ("1e39", 0, Err(Unfit::TooLarge)),
            ("1e-999999999999", 0, Err(Unfit::Inexact)),
            ("12000", -3, Ok(12)),
            ("12001", -3, Err(Unfit::Inexact)),
            (&many_zeros, 0, Ok(1)),
        ];
        for (text, scale, expected) in cases {
            assert_eq!(json(text, scale), Some(expected), "{text}");
            let decimal = Decimal::scan(text.as_bytes()).unwrap();
            assert_eq!(decimal.scaled(scale), expected, "{text}");
        }
    }

    #[test]
    fn people_write_numbers_more_freely() {
        for (text, expected) in [("+1", 1), ("007", 7), ("5.", 5), ("0.5e1", 5), (".5e1", 5)] {
            assert_eq!(
                Decimal::scan(text.as_bytes()).unwrap().scaled(0),
                Ok(expected)
            );
        }
        for bad in ["", "+", ".", "e5", "1 ", " 1", "1e5x", "1.2.3", "1_000"] {
            assert_eq!(Decimal::scan(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn both_scanners_and_the_standard_library_agree(
            whole in "0|[1-9][0-9]{0,25}",
            fraction in proptest::option::of("[0-9]{1,25}"),
            exponent in proptest::option::of(-30..30),
            negative: bool,
            scale in -5..12,
        ) {
            let mut text = format!("{}{whole}", if negative { "-" } else { "" });
            if let Some(fraction) = fraction { text += &format!(".{fraction}"); }
            if let Some(exponent) = exponent { text += &format!("e{exponent}"); }
            let number = JsonNumber::scan(text.as_bytes(), 0).unwrap();
            prop_assert_eq!(number.end, text.len());
            let scaled = number.scaled(text.as_bytes(), 0, scale);
            prop_assert_eq!(scaled, Decimal::scan(text.as_bytes()).unwrap().scaled(scale));
            prop_assert_eq!(
                number.float(text.as_bytes(), 0).to_bits(),
                text.parse::<f64>().unwrap().to_bits()
            );
            if let Ok(integer) = text.parse::<i128>() {
                prop_assert_eq!(number.scaled(text.as_bytes(), 0, 0), Ok(integer));
            }
            if let Some(small) = number.small_integer() {
                prop_assert_eq!(Ok(i128::from(small)), number.scaled(text.as_bytes(), 0, 0));
            }
        }
    }
}
