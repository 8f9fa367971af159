// The package as `npm pack` makes it, of the files that git has. Made once for all tests that want it.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { run } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'

export interface Package {
  /** A directory that goes when the test ends. */
  readonly directory: string
  /** The archive in it. */
  readonly file: string
}

/** How many are kept for later runs: of this state of the files, and of the one before. */
const KEPT = 2

/**
 * Packed in a checkout of its own, with the packages that are installed here: compiling elsewhere disturbs nobody.
 */
export async function makePackage(t: { teardown(end: () => unknown): void }): Promise<Package> {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-package-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const { version } = JSON.parse(readFileSync(join(repositoryRoot(), 'package.json'), 'utf8'))
  const file = join(directory, `snapswitch-${version}.tgz`)
  const paths = listed()
  const kept = join(process.env.SNAPSWITCH_CACHE ?? join(repositoryRoot(), '.cache'), 'package')
  const made = join(kept, `${digestOf(paths)}.tgz`)
  if (existsSync(made)) {
    copyFileSync(made, file)
    return { directory, file }
  }
  for (const path of paths) {
    mkdirSync(dirname(join(directory, path)), { recursive: true })
    copyFileSync(join(repositoryRoot(), path), join(directory, path))
  }
  symlinkSync(join(repositoryRoot(), 'node_modules'), join(directory, 'node_modules'))
  await run('bash', ['-c', `cd '${directory}' && npm pack --silent --pack-destination '${directory}' >&2`], 120_000)
  keep(file, kept, made)
  return { directory, file }
}

function listed(): string[] {
  const git = { cwd: repositoryRoot(), encoding: 'utf8', maxBuffer: 16 << 20 } as const
  const all = execFileSync('git', ['ls-files', '-z'], git).split('\0')
  return all.filter(
    (path) => path !== '' && !path.startsWith('bench/results/') && existsSync(join(repositoryRoot(), path)),
  )
}

/** Of what it is made of. */
function digestOf(paths: readonly string[]): string {
  const hash = createHash('sha256').update(process.version)
  for (const path of paths) {
    const file = join(repositoryRoot(), path)
    const content = readFileSync(file)
    hash.update(`${path}\0${statSync(file).mode & 0o111}\0${content.length}\0`).update(content)
  }
  return hash.digest('hex')
}

/** Whole under its name, or not there: another test may look, and this one may be ended. */
function keep(file: string, directory: string, name: string): void {
  mkdirSync(directory, { recursive: true })
  const part = `${name}.${process.pid}`
  copyFileSync(file, part)
  renameSync(part, name)
  const age = (one: string) => statSync(one, { throwIfNoEntry: false })?.mtimeMs ?? 0
  const all = readdirSync(directory).map((one) => join(directory, one))
  for (const old of all.sort((x, y) => age(y) - age(x)).slice(KEPT)) rmSync(old, { force: true })
}
