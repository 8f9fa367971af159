// node scripts/lib/bundle-packages.js   Puts packages that tests load into one file each, where compiled modules find them before
// node_modules: most of a short test's processor time goes into the hundreds of modules that they are. Does nothing for one that is
// there in the installed version. The program's own bundle is made of the packages themselves.

import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

process.chdir(join(dirname(fileURLToPath(import.meta.url)), '..', '..'))
const installed = JSON.parse(readFileSync('node_modules/.package-lock.json', 'utf8')).packages
const versionOf = (name) => installed[`node_modules/${name}`].version

/** tap leaves files of the scope @tapjs out when it says where in a test something failed. */
const TAP = { name: 'tap', folder: 'dist/test/node_modules/tap', file: '../@tapjs/tap.mjs' }
const OTHERS = ['@sinclair/typebox', '@xmldom/xmldom', 'ajv', 'undici', 'yaml'].map((name) => ({
  name,
  folder: `dist/node_modules/${name}`,
  file: './all.mjs',
}))

function made(folder) {
  try {
    return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).version
  } catch {
    return null
  }
}

// Others may be running tests meanwhile: each file is there whole, and the one that leads to the others comes last.
function write(path, text) {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(`${path}.${process.pid}`, text)
  renameSync(`${path}.${process.pid}`, path)
}

for (const { name, folder, file } of [TAP, ...OTHERS]) {
  const version = versionOf(name)
  if (made(folder) === version) continue
  // A package that is CommonJS exports what it does only when it runs. tap would begin a test here, and is a module.
  const names = name === 'tap' ? ['default'] : Object.keys(await import(name)).filter((one) => /^\w+$/.test(one))
  const { outputFiles } = await build({
    stdin: { contents: `export * from '${name}'\nexport { ${names} } from '${name}'`, resolveDir: resolve('.') },
    write: false,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    banner: {
      js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);",
    },
    logLevel: 'error',
  })
  write(join(folder, file), outputFiles[0].contents)
  const main = names.includes('default') ? `export { default } from '${file}'\n` : ''
  write(join(folder, 'index.mjs'), `export * from '${file}'\n${main}`)
  write(join(folder, 'package.json'), JSON.stringify({ name, version, exports: './index.mjs' }))
}
