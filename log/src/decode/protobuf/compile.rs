// SPDX-License-Identifier: Apache-2.0
//! A `.proto` file and what it imports, compiled in memory.

use prost_reflect::FileDescriptor;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use crate::decode::registered::RegisteredSchema;

/// What the file is called, as a registry gives it no name.
const NAME: &str = "registered.proto";
/// Deepest nesting of braces that is compiled.
const MAX_DEPTH: usize = 64;

/// Compiles a schema. The files of Google's own types are at hand.
///
/// # Errors
/// When it is not valid, or imports what it does not refer to: why.
pub(super) fn compile(schema: &RegisteredSchema) -> Result<FileDescriptor, String> {
    let files = schema.references.iter().map(|r| (&*r.name, &*r.text));
    let files = Files(
        [(NAME, &*schema.text)]
            .into_iter()
            .chain(files)
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .collect(),
    );
    let too_deep = |(_, text): &(String, String)| depth(text) > MAX_DEPTH;
    if files.0.iter().any(too_deep) {
        return Err(format!("it is nested deeper than {MAX_DEPTH} levels"));
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(files);
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler
        .open_file(NAME)
        .map_err(|error| error.to_string())?;
    let file = compiler.descriptor_pool().get_file_by_name(NAME);
    file.ok_or_else(|| "it is not among what was compiled".to_owned())
}

/// Files in memory, by the names that others import.
struct Files(Vec<(String, String)>);

impl FileResolver for Files {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.iter().find(|(known, _)| known == name) {
            Some((_, text)) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// How deep braces are nested at most: the compiler takes stack for each level.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = depth.max(deepest);
    }
    deepest
}
