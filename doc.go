// Package director decides which backend a mail user belongs to.
package director
