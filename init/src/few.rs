//! A map of few entries: one vector in the order of its keys, looked through from its beginning.
//!
//! A tree that forgets entries is 5 kB of code for each kind of entry, most of it for balance, which what a device has by
//! the dozen (links, ports, layers) never needs.

use std::borrow::Borrow;

/// Entries in the order of their keys, each key once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Few<K, V>(Vec<(K, V)>);

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> Few<K, V> {
    /// Where an entry is; or where it would be.
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        let before = |(other, _): &&(K, V)| other.borrow() < key;
        let place = self.0.iter().take_while(before).count();
        let found = self.0.get(place);
        if found.is_some_and(|(other, _)| other.borrow() == key) {
            Ok(place)
        } else {
            Err(place)
        }
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key).ok()?;
        self.0.get(place).map(|(_, value)| value)
    }

    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key).ok()?;
        self.0.get_mut(place).map(|(_, value)| value)
    }

    /// Puts an entry where it belongs, in place of the one that had its key.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.place(&key) {
            Ok(place) => {
                if let Some(entry) = self.0.get_mut(place) {
                    entry.1 = value;
                }
            }
            Err(place) => self.0.insert(place, (key, value)),
        }
    }

    /// The value of a key, which is made where there is none.
    pub(crate) fn of(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let place = self.place(&key).unwrap_or_else(|place| {
            self.0.insert(place, (key, V::default()));
            place
        });
        #[expect(
            clippy::indexing_slicing,
            reason = "it was found there, or has just been put there"
        )]
        &mut self.0[place].1
    }

    /// Takes an entry out.
    pub(crate) fn take<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key).ok()?;
        Some(self.0.remove(place))
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.0.retain(|(key, value)| keep(key, value));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Whatever is done to it, it holds what a map of the standard library holds.
    #[test]
    fn is_a_map() {
        let (mut few, mut map) = (Few::default(), BTreeMap::new());
        let mut seed: u32 = 7;
        for round in 0..10_000_u32 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = (seed >> 16) % 12;
            match (seed >> 28) % 5 {
                0 => assert_eq!(few.take(&key), map.remove_entry(&key)),
                1 => {
                    few.insert(key, round);
                    map.insert(key, round);
                }
                2 => {
                    *few.of(key) += 1;
                    *map.entry(key).or_default() += 1;
                }
                3 if round % 50 == 0 => {
                    few.retain(|key, value| (key + value) % 3 != 0);
                    map.retain(|key, value| (*key + *value) % 3 != 0);
                }
                3 if round % 500 == 1 => {
                    few.clear();
                    map.clear();
                }
                _ => {
                    assert_eq!(few.get(&key), map.get(&key));
                    assert_eq!(few.get_mut(&key), map.get_mut(&key));
                }
            }
            assert!(few.iter().eq(map.iter()));
            assert!(few.values().eq(map.values()));
        }
    }
}
