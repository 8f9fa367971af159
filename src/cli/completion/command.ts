// `snapswitch completion SHELL`.

import { Argument, type Command } from 'commander'
import type { Terminal } from '../output.js'
import { completionScript, SHELLS, type Shell } from './scripts.js'
import { treeOf } from './tree.js'

export function addCompletionCommand(program: Command, terminal: Terminal): void {
  program
    .command('completion')
    .description('print a script with which a shell completes commands and options')
    .addArgument(new Argument('<shell>', 'the shell').choices(SHELLS))
    .addHelpText(
      'after',
      `
bash:  snapswitch completion bash >/etc/bash_completion.d/snapswitch
zsh:   snapswitch completion zsh >/usr/local/share/zsh/site-functions/_snapswitch
fish:  snapswitch completion fish >/etc/fish/completions/snapswitch.fish`,
    )
    .action((shell: Shell) => terminal.out(completionScript(shell, treeOf(program))))
}
