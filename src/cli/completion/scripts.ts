// Completion scripts for three shells, from the tree of commands. Each finds out which command stands on the line so
// far, and offers what may come after it. Pure.

import type { Flag, Node } from './tree.js'

export const SHELLS = ['bash', 'zsh', 'fish'] as const
export type Shell = (typeof SHELLS)[number]

export function completionScript(shell: Shell, tree: readonly Node[]): string {
  return { bash, zsh, fish }[shell](tree)
}

const namesOf = ({ short, long }: Flag) => (short === null ? [long] : [short, long])
/** One word of a shell. */
const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`

/** Paths of commands, for a shell's `case`: `'snapshot'|'snapshot create'`. */
const paths = (tree: readonly Node[]) =>
  tree
    .filter(({ path }) => path !== '')
    .map(({ path }) => quoted(path))
    .join('|')

/** `PATH OPTION` pairs whose value is of a kind. */
function valuesOf(tree: readonly Node[], wanted: (flag: Flag) => boolean): { key: string; flag: Flag }[] {
  return tree.flatMap(({ path, flags }) =>
    flags.filter(wanted).flatMap((flag) => namesOf(flag).map((name) => ({ key: `${path} ${name}`, flag }))),
  )
}

const files = (tree: readonly Node[]) =>
  valuesOf(tree, ({ value, choices }) => value === 'file' && choices.length === 0)
const texts = (tree: readonly Node[]) =>
  valuesOf(tree, ({ value, choices }) => value === 'text' && choices.length === 0)
const chosen = (tree: readonly Node[]) => valuesOf(tree, ({ choices }) => choices.length > 0)
/** A pattern that nothing fits where there are none. */
const keys = (pairs: readonly { key: string }[]) => pairs.map(({ key }) => quoted(key)).join('|') || "''"

function bash(tree: readonly Node[]): string {
  const offers = tree.map(({ path, commands, flags, choices }) => {
    const words = [...commands.map(({ name }) => name), ...choices].join(' ')
    return `    ${quoted(path)}) words=${quoted(words)}; options=${quoted(flags.flatMap(namesOf).join(' '))} ;;`
  })
  const choices = chosen(tree).map(
    ({ key, flag }) =>
      `    ${quoted(key)}) COMPREPLY=($(compgen -W ${quoted(flag.choices.join(' '))} -- "$current")); return ;;`,
  )
  return `# bash completion for snapswitch: snapswitch completion bash
_snapswitch() {
  local current=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD - 1]} at='' words='' options='' i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "\${at:+$at }\${COMP_WORDS[i]}" in
    ${paths(tree)}) at="\${at:+$at }\${COMP_WORDS[i]}" ;;
    esac
  done
  case "$at $before" in
    ${keys(files(tree))}) compopt -o filenames; COMPREPLY=($(compgen -f -- "$current")); return ;;
    ${keys(texts(tree))}) return ;;
${choices.join('\n')}
  esac
  case "$at" in
${offers.join('\n')}
  esac
  [[ $current == -* ]] && words=$options
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -F _snapswitch snapswitch
`
}

function zsh(tree: readonly Node[]): string {
  const described = (name: string, description: string) => quoted(`${name.replaceAll(':', '\\:')}:${description}`)
  const offers = tree.map(({ path, commands, flags, choices }) => {
    const words = [...commands.map(({ name, description }) => described(name, description)), ...choices.map(quoted)]
    const options = flags.flatMap((flag) => namesOf(flag).map((name) => described(name, flag.description)))
    return `    ${quoted(path)}) offered=(${words.join(' ')}); options=(${options.join(' ')}) ;;`
  })
  const choices = chosen(tree).map(
    ({ key, flag }) => `    ${quoted(key)}) compadd -- ${flag.choices.map(quoted).join(' ')}; return ;;`,
  )
  return `#compdef snapswitch
# zsh completion for snapswitch: snapswitch completion zsh
_snapswitch() {
  local at='' i
  local -a offered options
  for ((i = 2; i < CURRENT; i++)); do
    case "\${at:+$at }\${words[i]}" in
    ${paths(tree)}) at="\${at:+$at }\${words[i]}" ;;
    esac
  done
  case "$at \${words[CURRENT - 1]}" in
    ${keys(files(tree))}) _files; return ;;
    ${keys(texts(tree))}) return ;;
${choices.join('\n')}
  esac
  case "$at" in
${offers.join('\n')}
  esac
  if [[ $words[CURRENT] == -* ]]; then
    _describe -o option options
  else
    _describe command offered
  fi
}
if [[ $funcstack[1] == _snapswitch ]]; then
  _snapswitch "$@"
else
  compdef _snapswitch snapswitch
fi
`
}

function fish(tree: readonly Node[]): string {
  const at = (path: string) => quoted(`__snapswitch_at ${JSON.stringify(path)}`)
  const lines = tree.flatMap(({ path, commands, flags, choices }) => [
    ...commands.map(
      ({ name, description }) => `complete -c snapswitch -n ${at(path)} -a ${name} -d ${escaped(description)}`,
    ),
    ...choices.map((choice) => `complete -c snapswitch -n ${at(path)} -a ${escaped(choice)}`),
    ...flags.map((flag) => {
      const { short, long, description, value } = flag
      const names = `${short === null ? '' : `-s ${short.slice(1)} `}-l ${long.slice(2)}`
      const takes = value === 'none' ? '' : value === 'file' ? ' -r -F' : ' -x'
      const offered = flag.choices.length === 0 ? '' : ` -a ${escaped(flag.choices.join(' '))}`
      return `complete -c snapswitch -n ${at(path)} ${names}${takes}${offered} -d ${escaped(description)}`
    }),
  ])
  return `# fish completion for snapswitch: snapswitch completion fish
function __snapswitch_at
    set -l at ''
    for word in (commandline -opc)[2..-1]
        switch (string trim -- "$at $word")
            case ${tree
              .filter(({ path }) => path !== '')
              .map(({ path }) => escaped(path))
              .join(' ')}
                set at (string trim -- "$at $word")
        end
    end
    test "$at" = "$argv[1]"
end
complete -c snapswitch -f
${lines.join('\n')}
`
}

/** In fish a backslash within quotes is one before a quote or a backslash only. */
const escaped = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
