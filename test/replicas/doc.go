// Package replicas kills replicas of cairnd. Two of them, processes of their own on one real PostgreSQL and one data folder, start
// scheduled and on-demand backups of simulated clusters while they are killed and stopped at random; afterwards every slot has run once, and no job was
// lost or run twice. It has no code of its own that others could use.
package replicas
